import pytest
import torch

from fvfast import quality

SIZE = 128


def grey(luminance):
    return luminance[:, None].expand(-1, 3, -1, -1).contiguous()


def noise_of_slope(slope, count=8):
    """Grey noise whose power falls as frequency^slope."""
    fy, fx = torch.fft.fftfreq(SIZE)[:, None], torch.fft.rfftfreq(SIZE)[None]
    radius = (fy.square() + fx.square()).sqrt().clamp(min=1 / SIZE)
    white = torch.randn(count, SIZE, SIZE, generator=torch.Generator().manual_seed(0))
    image = torch.fft.irfft2(torch.fft.rfft2(white) * radius ** (slope / 2), s=(SIZE, SIZE))
    return grey(0.5 + 0.05 * image / image.std((1, 2), keepdim=True))


@pytest.mark.parametrize("slope", [0.0, -1.0, -2.0, -3.0])
def test_the_slope_of_noise_made_with_that_slope(slope):
    # Eight images of 16 bands; the lowest hold some thirty waves each, hence 0.1 of scatter in the mean
    assert quality.spectrum_slope(noise_of_slope(slope)).mean().item() == pytest.approx(slope, abs=0.15)


def test_a_flat_image_has_no_slope_no_contrast_and_no_high_frequencies():
    flat = torch.full((2, 3, 64, 64), 0.5)
    for measure in (quality.spectrum_slope, quality.contrast, quality.colourfulness):
        assert measure(flat).abs().max() < 1e-4  # rounding
    assert quality.high_frequency(flat).max() < 1


def test_high_frequencies_are_those_beyond_a_quarter():
    x = torch.arange(SIZE, dtype=torch.float32)
    slow, fast = (0.5 + 0.4 * torch.sin(2 * torch.pi * f * x).expand(1, SIZE, SIZE) for f in (0.05, 0.45))
    share = quality.high_frequency(grey(torch.cat([slow, fast, (slow + fast) / 2])))
    # A Hann window leaks into the neighbouring two frequencies only
    assert share.tolist() == pytest.approx([0, 1, 0.5], abs=0.01)


def test_contrast_of_black_and_white_halves():
    image = torch.zeros(1, 3, 8, 8)
    image[..., 4:] = 1
    assert quality.contrast(image).item() == pytest.approx(0.5, abs=1e-6)
    green = torch.zeros(1, 3, 8, 8)
    green[:, 1, :, 4:] = 1
    assert quality.contrast(green).item() == pytest.approx(0.587 / 2, abs=1e-6)


def test_colourfulness_by_hand():
    red = torch.tensor([1.0, 0, 0])[None, :, None, None].expand(1, 3, 4, 4)
    # rg = 1 and yb = 1/2 everywhere: no spread, and a mean of sqrt(1.25)
    assert quality.colourfulness(red).item() == pytest.approx(0.3 * 1.25**0.5, abs=1e-6)
    halves = red.clone()
    halves[..., 2:] = torch.tensor([0, 1.0, 0])[:, None, None]
    # rg = +-1: spread 1, mean 0; yb = 1/2
    assert quality.colourfulness(halves).item() == pytest.approx(1 + 0.3 * 0.5, abs=1e-6)
