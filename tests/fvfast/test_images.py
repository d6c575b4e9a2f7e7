"""Parity with lucent and torch-dreams, from their formulas; and views against the canvas they are of."""

import dataclasses

import pytest
import torch

from fvfast.images import COLOUR, Fourier, Frame, Pixel, envelope
from fvfast.recipes import RECIPES, Recipe
from fvfast.views import Views, identity

MEAN, STD = torch.tensor([0.4, 0.5, 0.6]), torch.tensor([0.2, 0.25, 0.3])

# The colour matrix that all of them share, over its largest column norm, written out.
MATRIX = torch.tensor([[0.26, 0.09, 0.02], [0.27, 0.00, -0.05], [0.27, -0.09, 0.03]], dtype=torch.float64) / 0.4619524


def frame(size, view=None, dtype=torch.float32):
    return Frame(size, view or size, MEAN, STD, dtype, torch.device("cpu"))


def noise(kind, size, count=1, seed=0):
    return torch.stack([kind.noise(size, torch.Generator().manual_seed(seed + i)) for i in range(count)])


def decorrelated(image):
    """x @ M^T over the channels of [B, 3, H, W]."""
    return (image.movedim(1, -1) @ MATRIX.T).movedim(-1, 1)


def lucent_canvas(spectrum):
    """lucent 0.1.8, fft_image and to_valid_rgb: scale, irfftn (ortho), / 4, colours, sigmoid."""
    height, width = spectrum.shape[-2], spectrum.shape[-2]
    fy = torch.fft.fftfreq(height, dtype=torch.float64)[:, None]
    fx = torch.fft.fftfreq(width, dtype=torch.float64)[None, : width // 2 + 1]
    scale = 1 / torch.sqrt(fx * fx + fy * fy).clamp(min=1 / max(width, height))
    image = torch.fft.irfftn(scale * spectrum, s=(height, width), norm="ortho") / 4
    return torch.sigmoid(decorrelated(image))


def torch_dreams_canvas(spectrum):
    """torch-dreams 4.0.0: frequencies at spacing sqrt(1/2), to the power 0.75 of their square; no Nyquist column."""
    height, width = spectrum.shape[-2], spectrum.shape[-2]
    d = 0.5**0.5
    fy = torch.fft.fftfreq(height, d=d, dtype=torch.float64)[:, None]
    fx = torch.fft.fftfreq(width, d=d, dtype=torch.float64)[None, : (width + 1) // 2]
    scale = 1 / ((fx * fx + fy * fy) ** 0.75).clamp(min=1 / (max(width, height) * d))
    kept = spectrum[..., : (width + 1) // 2]
    image = torch.fft.irfft2(scale * kept, s=(height, width), norm="ortho")
    return torch.sigmoid(decorrelated(image))


@pytest.mark.parametrize("size", [16, 31, 48, 65])
@pytest.mark.parametrize(("name", "formula"), [("lucent", lucent_canvas), ("torch-dreams", torch_dreams_canvas)])
@pytest.mark.parametrize("scale", [1, 30])
def test_the_canvas_is_theirs_from_the_same_spectrum(size, name, formula, scale):
    recipe = dataclasses.replace(RECIPES[name], sd=0.01 * scale)
    start = noise(Fourier, size, 2)
    image = Fourier([recipe, recipe], start, frame(size))
    real, imaginary = (0.01 * scale * start.double()).unbind(2)
    # What is imaginary in frequencies that are their own mirror image cannot be in a real image: irfft drops it.
    expected = formula(torch.complex(real, imaginary))
    with torch.no_grad():
        canvas = image.canvas()
    # float32 sums of a thousand waves: a few 1e-7; the bound is the promise
    assert (canvas.double() - expected).abs().max() < 1e-6
    assert expected.std() > 1e-3 * scale


def test_lucids_envelope_falls_with_frequency():
    scale = envelope("lucid", 8, 8, 1.0)
    assert scale.shape == (8, 5)
    assert scale[0, 0].item() == pytest.approx(8)  # 1 / max(0, 1/8)
    assert scale[0, 4].item() == pytest.approx(2)
    assert scale[4, 4].item() == pytest.approx(2 / 2**0.5)
    assert scale[1, 0] == scale[7, 0] == scale[0, 1]
    torch.testing.assert_close(envelope("lucid", 8, 8, 1.5), scale**1.5, rtol=1e-6, atol=0)


def test_the_colour_matrix():
    torch.testing.assert_close(COLOUR.double(), MATRIX, rtol=1e-6, atol=0)


@pytest.mark.parametrize("kind", [Fourier, Pixel])
def test_noise_is_standard_normal(kind):
    start = noise(kind, 64)
    # 12,000 numbers and more: a standard error below 0.01; five of these
    assert start.mean().abs() < 0.05
    assert start.std().item() == pytest.approx(1, abs=0.05)
    assert start.equal(noise(kind, 64))
    assert not start.equal(noise(kind, 64, seed=1))


def test_every_image_of_a_batch_has_its_own_recipe():
    first, second = Recipe("a", decay=1.0, sd=0.1), Recipe("b", decay=1.5, sd=0.3)
    start = noise(Fourier, 24, 2)
    both = Fourier([first, second], start, frame(24)).canvas()
    alone = [Fourier([r], start[i : i + 1], frame(24)).canvas() for i, r in enumerate((first, second))]
    # the same operations on another batch: the order of float32 sums may differ
    torch.testing.assert_close(both, torch.cat(alone), rtol=0, atol=1e-6)
    assert (both[0] - both[1]).abs().max() > 0.01


def test_without_decorrelation_channels_stay_apart():
    recipe = Recipe("plain", decorrelate=False, sd=1.0)
    start = noise(Fourier, 16)
    start[:, 1:] = 0
    canvas = Fourier([recipe], start, frame(16)).canvas()
    assert canvas[:, 0].std() > 0.01
    torch.testing.assert_close(canvas[:, 1:], torch.full((1, 2, 16, 16), 0.5), rtol=0, atol=0)


def test_pixels_go_through_colours_and_a_sigmoid():
    recipe = Recipe("pixel", image="pixel", sd=2.0, gain=0.5)
    start = noise(Pixel, 16)
    canvas = Pixel([recipe], start, frame(16)).canvas()
    expected = torch.sigmoid(0.5 * decorrelated(2.0 * start.double()))
    assert (canvas.double() - expected).abs().max() < 1e-6


@pytest.mark.parametrize("kind", [Fourier, Pixel])
def test_a_still_view_is_the_normalised_canvas(kind):
    image = kind([Recipe("still", sd=1.0)], noise(kind, 20), frame(20))
    expected = (image.canvas() - MEAN[:, None, None]) / STD[:, None, None]
    view = image.view(identity())
    # two ways to the same float32 numbers of size 3
    torch.testing.assert_close(view, expected, rtol=0, atol=1e-5)
    assert view.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("kind", [Fourier, Pixel])
def test_a_whole_shift_rolls_the_canvas(kind):
    image = kind([Recipe("shifted", sd=1.0, views=Views(jitter=9))], noise(kind, 20), frame(20))
    view = image.view(torch.tensor([[3.0, -5.0, 1, 1, 0, 0]]))
    expected = (image.canvas().roll((-3, 5), (2, 3)) - MEAN[:, None, None]) / STD[:, None, None]
    torch.testing.assert_close(view, expected, rtol=0, atol=1e-5)


def test_what_lies_beyond_an_edge_is_the_border():
    recipe = Recipe("edge", sd=1.0, views=Views(jitter=9, border=0.5))
    image = Fourier([recipe], noise(Fourier, 20), frame(20))
    view = image.view(torch.tensor([[20.0, 0, 1, 1, 0, 0]]))  # a whole canvas further down: nothing but border
    expected = ((0.5 - MEAN) / STD)[:, None, None].expand(1, 3, 20, 20)
    torch.testing.assert_close(view, expected, rtol=0, atol=1e-6)


def test_a_border_of_the_mean_is_zero_to_the_network():
    recipe = Recipe("edge", image="pixel", sd=1.0, views=Views(jitter=9, border="mean"))
    image = Pixel([recipe], noise(Pixel, 20), frame(20))
    view = image.view(torch.tensor([[8.0, 0, 1, 1, 0, 0]]))
    assert view[:, :, 12:].abs().max() == 0
    expected = (image.canvas()[:, :, 8:] - MEAN[:, None, None]) / STD[:, None, None]
    torch.testing.assert_close(view[:, :, :12], expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("views", [Views(jitter=2), Views(rotate=5)])
def test_a_view_has_its_own_size_and_dtype(dtype, views):
    image = Fourier([Recipe("x", sd=1.0, views=views)], noise(Fourier, 20), frame(20, 28, dtype))
    view = image.view(torch.tensor([[0.0, 0, 20 / 28, 20 / 28, 0, 0]]))
    assert view.shape == (1, 3, 28, 28)
    assert view.dtype == dtype
    full = Fourier([Recipe("x", sd=1.0, views=views)], noise(Fourier, 20), frame(20, 28))
    expected = full.view(torch.tensor([[0.0, 0, 20 / 28, 20 / 28, 0, 0]]))
    # one rounding: half a unit in the last place, 2^-9 in bfloat16
    torch.testing.assert_close(view.float(), expected, rtol=2**-8, atol=1e-6)


@pytest.mark.parametrize(
    ("kind", "views"), [(Fourier, Views(jitter=3)), (Fourier, Views(rotate=9)), (Pixel, Views(jitter=3))]
)
def test_a_view_has_the_gradient_of_finite_differences(kind, views):
    image = kind([Recipe("x", sd=0.5, views=views)], noise(kind, 16), frame(16))
    at = torch.tensor([[1.5, -2.25, 1.0, 1.0, 0, 0.1 if views.rotate else 0]])
    weights = torch.randn(1, 3, 16, 16, generator=torch.Generator().manual_seed(5))
    (gradient,) = torch.autograd.grad((image.view(at) * weights).sum(), image.parameter)
    direction = gradient / gradient.norm()
    step = 1e-2
    values = []
    for sign in (1, -1):
        with torch.no_grad():
            image.parameter += sign * step * direction
            values.append((image.view(at) * weights).sum().double().item())
            image.parameter -= sign * step * direction
    slope = (values[0] - values[1]) / (2 * step)
    # central differences of float32 sums near 1e2: their rounding, 1e-5 / 2e-2, against slopes of order 10
    assert slope == pytest.approx(gradient.norm().item(), rel=5e-3)
