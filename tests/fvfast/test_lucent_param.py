"""lucent's parameterisations and transforms against its formulas, written here for numpy."""

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from fvfast import FvfastError
from fvfast.compat.lucent import param, transform
from fvfast.compat.lucent.fusing import chain, engine_image, give_back
from fvfast.compat.lucent.optvis.param.spatial import Spectrum
from fvfast.images import Frame

# The square root of ImageNet's colour covariance, over the largest norm of its columns.
COLOUR = np.array([[0.26, 0.09, 0.02], [0.27, 0.0, -0.05], [0.27, -0.09, 0.03]]) / math.sqrt(0.26**2 + 2 * 0.27**2)


def image_of(spectrum, width, height, mixed=True):
    """lucent's image of a spectrum [B, 3, H, M, 2], in float64."""
    fy, fx = np.fft.fftfreq(height)[:, None], np.fft.rfftfreq(width)[None]
    scale = 1 / np.maximum(np.sqrt(fy**2 + fx**2), 1 / max(width, height))
    columns = width // 2 + 1
    values = spectrum[..., :columns, 0] + 1j * spectrum[..., :columns, 1]
    painted = np.fft.irfft2(values * scale, s=(height, width), norm="ortho") / 4
    if mixed:
        painted = np.einsum("oc,bchw->bohw", COLOUR, painted)
    return 1 / (1 + np.exp(-painted))


@pytest.mark.parametrize(("width", "height"), [(16, 16), (17, 17), (24, 18), (15, 20)])
def test_a_fourier_image_is_lucents(width, height):
    params, image_f = param.image(width, h=height, batch=2, sd=1.5)
    expected = image_of(params[0].detach().double().numpy(), width, height)
    assert image_f().shape == (2, 3, height, width)
    np.testing.assert_allclose(image_f().detach().numpy(), expected, atol=2e-6)
    assert expected.std() > 0.1


def test_a_seed_starts_where_lucent_starts():
    torch.manual_seed(5)
    (spectrum,), _ = param.image(17, sd=0.2)
    torch.manual_seed(5)
    assert torch.equal(spectrum, torch.randn(1, 3, 17, 10, 2) * 0.2)
    torch.manual_seed(5)
    (pixels,), _ = param.image(8, fft=False)
    torch.manual_seed(5)
    assert torch.equal(pixels, torch.randn(1, 3, 8, 8) * 0.01)


def test_pixels_and_colours_are_lucents():
    (pixels,), image_f = param.image(6, h=5, fft=False, sd=2)
    mixed = np.einsum("oc,bchw->bohw", COLOUR, pixels.detach().numpy())
    np.testing.assert_allclose(image_f().detach().numpy(), 1 / (1 + np.exp(-mixed)), atol=1e-6)
    (pixels,), image_f = param.image(6, fft=False, sd=2, decorrelate=False)
    torch.testing.assert_close(image_f(), torch.sigmoid(pixels))
    _, image_f = param.image(6, fft=False, channels=1)
    assert image_f().shape == (1, 1, 6, 6)
    np.testing.assert_allclose(param.color_correlation_normalized, COLOUR, atol=1e-6)


def test_the_decay_of_a_spectrum_can_be_chosen():
    (spectrum,), image_f = param.fft_image([1, 3, 12, 12], sd=1, decay_power=2)
    fy, fx = np.fft.fftfreq(12)[:, None], np.fft.rfftfreq(12)[None]
    scale = 1 / np.maximum(np.sqrt(fy**2 + fx**2), 1 / 12) ** 2
    values = torch.view_as_complex(spectrum.detach()).numpy() * scale
    np.testing.assert_allclose(image_f().detach().numpy(), np.fft.irfft2(values, norm="ortho") / 4, atol=1e-4)


def test_a_lowres_tensor_interpolates_and_shifts():
    (small,), image_f = param.lowres_tensor((1, 1, 5, 9), (1, 1, 3, 5), sd=1)
    made = image_f().detach()
    torch.testing.assert_close(made[..., ::2, ::2], small.detach())
    torch.testing.assert_close(made[0, 0, 0, 1], (small[0, 0, 0, 0] + small[0, 0, 0, 1]).detach() / 2)
    (small,), image_f = param.lowres_tensor((4, 3, 8, 8), (1, 3, 8, 8), offset=[False, False, 2, 0], sd=1)
    made = image_f().detach()
    assert torch.equal(made[0], made[3])
    assert torch.equal(made[0, :, 2:], small.detach()[0, :, :-2])
    assert torch.equal(made[0, :, :2], small.detach()[0, :, 1:3].flip(1))
    _, halved = param.lowres_tensor((1, 1, 8, 8), (1, 1, 2, 2), offset=True)
    assert halved().shape == (1, 1, 8, 8)


def test_a_cppn_starts_grey_and_is_a_network_of_coordinates():
    params, image_f = param.cppn(9, num_hidden_channels=4, num_layers=3)
    weights = list(params)
    assert torch.equal(image_f(), torch.full((1, 3, 9, 9), 0.5))
    with torch.no_grad():
        weights[-2].normal_()
    line = np.linspace(-math.sqrt(3), math.sqrt(3), 9)
    value = np.stack(np.meshgrid(line, line, indexing="ij"))
    for index in range(3):
        matrix, bias = (w.detach().double().numpy() for w in weights[2 * index : 2 * index + 2])
        value = np.einsum("oi,iyx->oyx", matrix[..., 0, 0], value) + bias[:, None, None]
        if index < 2:
            arc = np.arctan(value)
            value = np.concatenate([arc / 0.67, arc**2 / 0.6])
    np.testing.assert_allclose(image_f().detach().numpy()[0], 1 / (1 + np.exp(-value)), atol=1e-5)


def test_the_start_of_a_cppn_is_lucents():
    """Every convolution is made before the first is drawn anew."""
    torch.manual_seed(3)
    first = next(iter(param.cppn(8, num_layers=3)[0]))
    torch.manual_seed(3)
    layers = [torch.nn.Conv2d(2, 24, 1), torch.nn.Conv2d(48, 24, 1), torch.nn.Conv2d(48, 3, 1)]
    torch.nn.init.normal_(layers[0].weight, 0, math.sqrt(1 / 2))
    assert torch.equal(first, layers[0].weight)


def test_a_lost_generator_says_so():
    with pytest.raises(FvfastError, match="lost its weights"):
        param.upconvGAN("fc6")


# Transforms ------------------------------------------------------------------------------------------------

IMAGE = torch.rand(2, 3, 12, 12, generator=torch.Generator().manual_seed(4))


def test_pad_and_jitter():
    torch.testing.assert_close(
        transform.pad(3)(IMAGE), torch.from_numpy(np.pad(IMAGE, [(0, 0)] * 2 + [(3, 3)] * 2, "reflect"))
    )
    framed = transform.pad(2, mode="constant", constant_value=0.25)(IMAGE)
    assert framed.shape[-1] == 16
    assert torch.equal(framed[..., 2:-2, 2:-2], IMAGE)
    assert (framed[..., :2, :] == 0.25).all()
    np.random.seed(0)
    moved = transform.jitter(5)(IMAGE)
    np.random.seed(0)
    dx, dy = np.random.choice(5), np.random.choice(5)
    expected = torch.zeros_like(IMAGE)
    expected[..., dy:, dx:] = IMAGE[..., : 12 - dy, : 12 - dx]
    assert (dx, dy) == (4, 0)
    torch.testing.assert_close(moved, expected)


def test_random_scale_resizes_with_aligned_corners_and_fills_up():
    larger = transform.random_scale([1.5])(IMAGE)
    torch.testing.assert_close(larger, F.interpolate(IMAGE, 18, mode="bilinear", align_corners=True), atol=1e-5, rtol=0)
    smaller = transform.random_scale([0.5])(IMAGE)
    assert smaller.shape == IMAGE.shape
    inner = F.interpolate(IMAGE, 6, mode="bilinear", align_corners=True)
    torch.testing.assert_close(smaller[..., 3:9, 3:9], inner, atol=1e-5, rtol=0)
    assert not smaller[..., :2, :].any()


def test_random_rotate_turns_counter_clockwise():
    for angle, units in ((90, "degrees"), (math.pi / 2, "rads")):
        turned = transform.random_rotate([angle], units)(IMAGE)
        torch.testing.assert_close(turned, IMAGE.rot90(1, (2, 3)), atol=1e-5, rtol=0)


def test_a_turn_by_any_angle_is_a_bilinear_sample():
    turned = transform.random_rotate([20])(IMAGE)
    cos, sin = math.cos(math.radians(20)), math.sin(math.radians(20))
    y, x = 4 - 5.5, 7 - 5.5  # from the middle
    # Counter-clockwise on the screen, where y points down: back by the same angle clockwise.
    sy, sx = cos * y + sin * x + 5.5, -sin * y + cos * x + 5.5
    i, j = math.floor(sy), math.floor(sx)
    v, u = sy - i, sx - j
    a, b, c, d = IMAGE[..., i, j], IMAGE[..., i, j + 1], IMAGE[..., i + 1, j], IMAGE[..., i + 1, j + 1]
    torch.testing.assert_close(turned[..., 4, 7], (1 - v) * ((1 - u) * a + u * b) + v * ((1 - u) * c + u * d))


def test_normalisation():
    mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    torch.testing.assert_close(transform.normalize()(IMAGE), (IMAGE - mean[:, None, None]) / std[:, None, None])
    torch.testing.assert_close(transform.preprocess_inceptionv1()(IMAGE), IMAGE * 255 - 117, atol=1e-3, rtol=0)


@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        (lambda: transform.jitter(1), "jitter takes 2 pixels or more, not 1"),
        (lambda: transform.random_rotate([1], "turns"), "degrees or radians, not 'turns'"),
    ],
)
def test_bad_transforms_are_one_sentence(make, sentence):
    with pytest.raises(FvfastError, match=sentence):
        make()


# Fused -----------------------------------------------------------------------------------------------------


def views(transforms, size, image_f, steps=3):
    """The views of the engine's image through a chain, and those that lucent's loop would see."""
    fused = chain([*transforms, transform.normalize()], size)
    assert not isinstance(fused, str), fused
    mean, std = torch.tensor(fused.mean), torch.tensor(fused.std)
    frame = Frame(size, fused.side, mean, std, torch.float32, torch.device("cpu"))
    np.random.seed(1)
    table = fused.table(steps, len(image_f()))
    image = engine_image(image_f, fused, frame, warped=True)
    np.random.seed(1)
    one_by_one = transform.compose([*transforms, transform.normalize()])
    with torch.no_grad():
        return [image.view(row) for row in table], [one_by_one(image_f()) for _ in range(steps)]


def test_whole_pixels_come_out_as_they_do_one_by_one():
    _, image_f = param.image(20, batch=2, sd=1)
    for moves in (
        [],
        [transform.pad(4)],
        [transform.pad(6, "constant", 0.5), transform.jitter(5), transform.jitter(3)],
    ):
        ours, theirs = views(moves, 20, image_f)
        for a, b in zip(ours, theirs, strict=True):
            torch.testing.assert_close(a, b, atol=1e-4, rtol=0)


def test_lucents_own_transforms_come_out_as_one_sample_of_a_smooth_image():
    """Sampled once instead of four times: sharper, but the same places. A wave two canvases long blurs by nothing."""
    (pixels,), image_f = param.image(40, fft=False, decorrelate=False)
    ramp = torch.linspace(-1, 1, 40)
    with torch.no_grad():
        pixels.copy_(torch.stack([ramp.expand(40, 40), ramp.expand(40, 40).T, ramp[:, None] * ramp])[None])
    moves = [*transform.standard_transforms, transform.Resize(50)]
    fused = chain([*moves[:-1], transform.normalize(), moves[-1]], 40)
    assert not isinstance(fused, str)
    assert fused.side == 50
    np.random.seed(3)
    table = fused.table(4, 1)
    frame = Frame(40, 50, torch.tensor(fused.mean), torch.tensor(fused.std), torch.float32, torch.device("cpu"))
    image = engine_image(image_f, fused, frame, warped=True)
    np.random.seed(3)
    for row in table:
        with torch.no_grad():
            ours, theirs = image.view(row), transform.normalize()(transform.compose(moves)(image_f()))
        middle = (..., slice(15, 35), slice(15, 35))
        torch.testing.assert_close(ours[middle], theirs[middle], atol=0.02, rtol=0)
        assert theirs[middle].std() > 0.2


def test_a_frame_made_larger_shows_its_middle():
    """From 224 px on nothing is resized: lucent's view grows with the scale, this one keeps its size."""
    _, image_f = param.image(20, sd=1)
    ours, theirs = views([transform.random_scale([1.5])], 20, image_f, steps=1)
    assert theirs[0].shape[-1] == 30
    torch.testing.assert_close(ours[0], theirs[0][..., 5:25, 5:25], atol=1e-4, rtol=0)


@pytest.mark.parametrize("size", [16, 17])
@pytest.mark.parametrize("fft", [True, False])
def test_the_engines_image_is_the_users_and_is_given_back(size, fft):
    (tensor,), image_f = param.image(size, batch=2, fft=fft, sd=1.0, decorrelate=False)
    fused = chain([], size)
    assert not isinstance(fused, str)
    frame = Frame(size, size, torch.zeros(3), torch.ones(3), torch.float32, torch.device("cpu"))
    image = engine_image(image_f, fused, frame, warped=not fft)
    torch.testing.assert_close(image.canvas(), image_f(), atol=1e-5, rtol=0)
    with torch.no_grad():
        image.parameter.mul_(-2)
    before = tensor.detach().clone()
    give_back(image, image_f.source)  # pyright: ignore[reportArgumentType]
    columns = size // 2 + 1 if isinstance(image_f.source, Spectrum) else size
    torch.testing.assert_close(tensor.detach()[..., :columns, :], -2 * before[..., :columns, :])
    torch.testing.assert_close(image.canvas(), image_f(), atol=1e-5, rtol=0)


@pytest.mark.parametrize(
    ("transforms", "reason"),
    [
        ([lambda x: x * 2], "the transform <lambda> is not one of"),
        ([transform.jitter(2), transform.pad(2)], "the transform Pad is not one of .* in this order"),
        ([transform.normalize(), transform.normalize()], "normalised more than once"),
        ([transform.Resize((4, 5))], "not square"),
    ],
)
def test_what_cannot_be_fused_says_why(transforms, reason):
    import re

    said = chain(transforms, 16)
    assert isinstance(said, str)
    assert re.search(reason, said)
