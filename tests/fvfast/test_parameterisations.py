"""Pyramids and CPPNs against their formulas; every parameterisation from a picture to its parameter and back."""

import math
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F

import fvfast
from fvfast import cppn
from fvfast.cppn import Cppn
from fvfast.errors import FvfastError
from fvfast.images import COLOUR, Fourier, Frame, Pixel
from fvfast.phase import Phase, column_weights, magnitude, standard_deviation
from fvfast.pyramid import Pyramid, sides
from fvfast.recipes import CPPN, DEFAULT, MACO, PLAIN, PYRAMID, RECIPES, Recipe, choose
from fvfast.views import Views

MEAN, STD = torch.tensor([0.4, 0.5, 0.6]), torch.tensor([0.2, 0.25, 0.3])


def frame(size, view=None):
    return Frame(size, view or size, MEAN, STD, torch.float32, torch.device("cpu"))


def made(kind, recipe, size, count=1, view=None):
    noise = torch.stack([kind.noise(size, torch.Generator().manual_seed(i)) for i in range(count)])
    return kind([recipe] * count, noise, frame(size, view))


def slope_by_differences(image, at, weights, step):
    """The slope of sum(weights * view) along its own gradient: by differences, and by autograd."""
    (gradient,) = torch.autograd.grad((image.view(at) * weights).sum(), image.parameter)
    direction = gradient / gradient.norm()
    values = []
    for sign in (1, -1):
        with torch.no_grad():
            image.parameter += sign * step * direction
            values.append((image.view(at) * weights).sum().double().item())
            image.parameter -= sign * step * direction
    return (values[0] - values[1]) / (2 * step), gradient.norm().item()


# Pyramids --------------------------------------------------------------------------------------------------


def test_a_pyramids_grids():
    assert sides(224) == [224, 112, 56, 28, 14, 7]
    assert sides(16) == [16, 8, 4]
    assert sides(33) == [33, 16, 8, 4]


@pytest.mark.parametrize("size", [16, 33])
@pytest.mark.parametrize("decay", [1.0, 1.75])
def test_a_pyramid_is_the_sum_of_its_upsampled_grids(size, decay):
    recipe = Recipe("p", image="pyramid", sd=0.7, gain=0.8, decay=decay)
    image = made(Pyramid, recipe, size, 2)
    start = torch.stack([Pyramid.noise(size, torch.Generator().manual_seed(i)) for i in range(2)])
    field, at = torch.zeros(2, 3, size, size, dtype=torch.float64), 0
    for level, side in enumerate(sides(size)):
        grid = 0.7 * start[:, at : at + 3 * side * side].view(2, 3, side, side).double()
        at += 3 * side * side
        # torch's own bilinear interpolation, written as two matrices of weights
        points = ((torch.arange(size, dtype=torch.float64) + 0.5) * side / size - 0.5).clamp(0, side - 1)
        weights = (1 - (points[:, None] - torch.arange(side)).abs()).clamp(min=0)  # [size, side]
        field += 2 ** (level * (decay - 1)) * (weights @ grid @ weights.T)
    assert at == start.shape[1]
    expected = torch.sigmoid(0.8 * torch.einsum("oc,bchw->bohw", COLOUR.double(), field))
    # float32 against float64: a few 1e-7 through a sigmoid
    assert (image.canvas().double() - expected).abs().max() < 2e-6


def test_images_of_a_pyramid_batch_have_their_own_recipes():
    first, second = replace(PYRAMID, decay=1.0, sd=1.0), replace(PYRAMID, decay=2.0, sd=0.3)
    noise = torch.stack([Pyramid.noise(16, torch.Generator().manual_seed(i)) for i in range(2)])
    both = Pyramid([first, second], noise, frame(16)).canvas()
    alone = [Pyramid([r], noise[i : i + 1], frame(16)).canvas() for i, r in enumerate((first, second))]
    torch.testing.assert_close(both, torch.cat(alone), rtol=0, atol=1e-6)


# CPPNs -----------------------------------------------------------------------------------------------------


def test_a_cppn_is_its_network_at_one_pixel():
    recipe = replace(CPPN, sd=2.0)
    image = made(Cppn, recipe, 20)
    numbers = image.parameter.detach()[0].double().tolist()
    y, x = (3 - 9.5) * 2 * math.sqrt(3) / 20, (17 - 9.5) * 2 * math.sqrt(3) / 20
    values, inputs, sums = [y, x], 2, []
    for layer in range(cppn.DEPTH + 1):
        outputs = cppn.WIDTH if layer < cppn.DEPTH else 3
        rows = [numbers[i * inputs : (i + 1) * inputs] for i in range(outputs)]
        biases = numbers[outputs * inputs : outputs * inputs + outputs]
        numbers = numbers[outputs * (inputs + 1) :]
        sums = [sum(w * v for w, v in zip(r, values, strict=True)) + b for r, b in zip(rows, biases, strict=True)]
        curved = [math.atan(v) for v in sums]
        values = [c / 0.67 for c in curved] + [(c * c - 0.45) / 0.396 for c in curved]
        inputs = 2 * cppn.WIDTH
    assert numbers == []
    mixed = COLOUR.double() @ torch.tensor(sums, dtype=torch.float64)
    # nine layers of float32, amplified by the curves
    torch.testing.assert_close(image.canvas()[0, :, 3, 17].double(), mixed.sigmoid(), rtol=0, atol=1e-4)


def test_a_cppn_starts_nearly_grey_and_full_of_structure():
    grey, bold = made(Cppn, CPPN, 32).canvas(), made(Cppn, replace(CPPN, sd=10.0), 32).canvas()
    assert 0.001 < grey.std() < 0.1
    assert bold.std() > 0.1


def test_a_cppns_view_is_its_function_at_the_views_points():
    image = made(Cppn, replace(CPPN, sd=3.0), 24)
    whole = (image.canvas() - MEAN[:, None, None]) / STD[:, None, None]
    shifted = image.view(torch.tensor([[2.0, -3.0, 1, 1, 0, 0]]))
    torch.testing.assert_close(shifted[:, :, :22, 3:], whole[:, :, 2:, :21], rtol=0, atol=1e-3)
    turned = image.view(torch.tensor([[0.0, 0, 1, 1, 0, math.pi / 2]]))
    torch.testing.assert_close(turned, whole.rot90(-1, (2, 3)), rtol=0, atol=1e-3)
    # Every second pixel's place is known to a view of half the resolution that begins half a pixel earlier.
    coarse = made(Cppn, replace(CPPN, sd=3.0), 24, view=12).view(torch.tensor([[-0.5, -0.5, 2, 2, 0, 0]]))
    torch.testing.assert_close(coarse, whole[:, :, ::2, ::2], rtol=0, atol=1e-3)


@pytest.mark.parametrize(("kind", "recipe"), [(Pyramid, PYRAMID), (Cppn, CPPN)])
def test_a_view_has_the_gradient_of_finite_differences(kind, recipe):
    image = made(kind, replace(recipe, sd=0.5, views=Views(jitter=3, shear=5)), 16)
    weights = torch.randn(1, 3, 16, 16, generator=torch.Generator().manual_seed(5))
    at = torch.tensor([[1.5, -2.25, 0.9, 1.1, 0.05, 0]])
    slope, norm = slope_by_differences(image, at, weights, 1e-2 if kind is Pyramid else 2e-3)
    # central differences of float32 sums near 1e2, as for the other parameterisations; CPPNs are strongly curved
    assert slope == pytest.approx(norm, rel=5e-3 if kind is Pyramid else 3e-2)


# Both, by the public door ----------------------------------------------------------------------------------


@pytest.mark.parametrize("image", ["pyramid", "cppn"])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_they_climb_alone_as_in_company_and_in_batches(tiny, halves, image, dtype):
    options = {"size": 32, "steps": 8, "image": image, "dtype": dtype}
    together = fvfast.render(tiny, ["deep:3", "logits:2"], copies=2, every=4, **options)
    assert (together.objective > together.objective_start).all()
    alone = fvfast.render(tiny, "logits:2", seed=1, **options)
    assert together.images[3].equal(alone.images[0])
    assert [step for step, _ in together.snapshots[0]] == [4, 8]
    assert together.snapshots[0][1][1].equal(together.images[0])
    if dtype == "float32":
        batched = fvfast.render(tiny, ["deep:3", "logits:2"], copies=2, batch=4, **options)
        # Sums in another order, amplified by Adam's normalised steps
        torch.testing.assert_close(batched.images, together.images, rtol=0, atol=5e-3)


def test_the_default_recipe_is_the_parameterisations_own():
    layer, logit = fvfast.objectives.channel("deep", 1), fvfast.objectives.logit(1)
    assert choose("default", layer, image="pyramid").views == DEFAULT.views
    assert choose("default", logit, image="pyramid").steps > choose("default", layer, image="pyramid").steps
    assert choose("default", layer, image="cppn") == CPPN
    assert choose("default", layer, image="cppn", lr=0.5).lr == 0.5
    with pytest.raises(FvfastError, match="the recipe lucent is made for another image than cppn"):
        choose("lucent", layer, image="cppn")


# Starting from a picture -----------------------------------------------------------------------------------


def photograph(size, seed=0):
    """Smooth, colourful, and within 0.1 .. 0.9."""
    coarse = torch.rand(1, 3, 5, 5, generator=torch.Generator().manual_seed(seed))
    return 0.1 + 0.8 * F.interpolate(coarse, (size, size), mode="bilinear", align_corners=True)[0]


@pytest.mark.parametrize("size", [16, 33])
@pytest.mark.parametrize(
    ("kind", "recipe"),
    [
        (Fourier, DEFAULT),
        (Fourier, replace(DEFAULT, decay=1.5, decorrelate=False)),
        (Fourier, RECIPES["lucent"]),
        (Pixel, PLAIN),
        (Pixel, replace(PLAIN, decorrelate=True, gain=0.3)),
        (Pyramid, PYRAMID),
    ],
)
def test_a_canvas_that_starts_from_a_picture_is_the_picture(kind, recipe, size):
    image = made(kind, recipe, size, 2)
    pictures = torch.stack([photograph(size, 0), photograph(size, 1)])
    image.begin(pictures)
    # There and back through a logit, a matrix and a transform in float32
    torch.testing.assert_close(image.canvas(), pictures, rtol=0, atol=1e-4)
    assert image.parameter.requires_grad
    assert image.parameter.is_leaf


def test_black_and_white_become_the_levels_next_to_them():
    image = made(Pixel, PLAIN, 16)
    image.begin(torch.tensor([0.0, 1.0, 0.5])[None, :, None, None].expand(1, 3, 16, 16))
    torch.testing.assert_close(image.canvas()[0, :, 3, 3], torch.tensor([1 / 255, 254 / 255, 0.5]), rtol=0, atol=1e-5)


def test_phases_start_as_the_pictures_own():
    image, picture = made(Phase, MACO, 24), photograph(24)
    image.begin(picture[None])
    logits = torch.linalg.inv(COLOUR) @ torch.logit(picture).flatten(1) / MACO.gain
    waves = torch.fft.rfft2(logits.view(3, 24, 24), norm="ortho")
    unit = waves / waves.abs().clamp(min=1e-12) * magnitude(None, 24, MACO.decay)
    planes = torch.stack([unit.real, unit.imag], 1)[None]
    field = torch.fft.irfft2(unit, s=(24, 24), norm="ortho") / standard_deviation(planes, column_weights(24))
    expected = torch.sigmoid(MACO.gain * (COLOUR @ field.flatten(1))).view(3, 24, 24)
    torch.testing.assert_close(image.canvas()[0], expected, rtol=0, atol=1e-4)


def test_a_render_starts_from_the_middle_of_a_picture(tiny):
    picture = torch.zeros(3, 32, 48)
    picture[:, :, 8:40] = photograph(32)
    result = fvfast.render(tiny, "deep:3", start=picture, size=32, steps=2, lr=1e-9)
    # A step of 1e-9 moves nothing that float32 shows
    torch.testing.assert_close(result.images[0], photograph(32), rtol=0, atol=1e-4)
    assert result.specs[0]["recipe"]["start"] == "given"


@pytest.mark.parametrize("image", ["cppn", "generator:dcgan-faces"])
def test_what_cannot_start_from_a_picture_says_so(tiny, image):
    with pytest.raises(
        FvfastError, match=f"--image {image} cannot start from a picture: fourier, pixel, phase, pyramid"
    ):
        fvfast.render(tiny, "deep:3", image=image, start=photograph(32), size=32, steps=1)
