"""Comparing two images: against formulas written out here, at every size a canvas may have."""

import math
import sys

import pytest
import torch
import torch.nn.functional as F

from fvfast import quality
from fvfast.errors import FvfastError
from fvfast.likeness import SCALE_WEIGHTS, scales


def picture(size, seed=0, spread=0.15):
    """A smooth random image [3, size, size] in 0..1."""
    noise = torch.randn(1, 3, size, size, generator=torch.Generator().manual_seed(seed))
    smooth = F.avg_pool2d(F.pad(noise, (2, 2, 2, 2), mode="circular"), 5, 1)[0]
    return (0.5 + spread * smooth / smooth.std()).clamp(0, 1)


@pytest.mark.parametrize("size", [16, 17, 21, 40, 81, 161])
def test_an_image_is_like_itself_at_any_size(size):
    image = picture(size)
    found = quality.compare(image, image)
    assert found["psnr"] == math.inf
    assert found["rms"] == 0
    assert found["ms_ssim"] == pytest.approx(1, abs=1e-6)
    assert found["fsim"] == pytest.approx(1, abs=1e-6)


def test_decibels_and_rms_by_hand():
    a = torch.full((3, 16, 16), 0.5)
    b = a.clone()
    b[0] += 0.1  # a third of the values are off by 0.1
    found = quality.compare(a, b)
    assert found["rms"] == pytest.approx(0.1 / 3**0.5, rel=1e-6)
    assert found["psnr"] == pytest.approx(10 * math.log10(300), rel=1e-6)


@pytest.mark.parametrize(("size", "count"), [(11, 1), (16, 1), (20, 1), (21, 2), (41, 3), (80, 3), (81, 4), (161, 5)])
def test_how_many_scales_fit(size, count):
    assert scales(size) == count


def windowed(image):
    """SSIM's local mean: a Gaussian of 11 px and deviation 1.5, where it fits."""
    x = torch.arange(11, dtype=torch.float64) - 5
    line = torch.exp(-x.square() / (2 * 1.5**2))
    kernel = torch.outer(line, line) / line.sum() ** 2
    return F.conv2d(image[:, None].double(), kernel[None, None])[:, 0]


def ssim_terms(a, b):
    """Mean SSIM, and mean of its contrast and structure alone, of each channel (Wang et al. 2004)."""
    ma, mb = windowed(a), windowed(b)
    va, vb, cov = windowed(a * a) - ma**2, windowed(b * b) - mb**2, windowed(a * b) - ma * mb
    structure = (2 * cov + 0.03**2) / (va + vb + 0.03**2)
    return ((2 * ma * mb + 0.01**2) / (ma**2 + mb**2 + 0.01**2) * structure).mean((1, 2)), structure.mean((1, 2))


def test_one_scale_is_plain_ssim():
    a, b = picture(20), picture(20, 1)
    near = (a + 0.8 * (b - 0.5)).clamp(0, 1)
    expected = ssim_terms(a, near)[0].mean().item()
    assert 0.3 < expected < 0.95
    assert quality.compare(a, near)["ms_ssim"] == pytest.approx(expected, abs=1e-5)


def test_two_scales_by_their_formula():
    a = picture(24)
    near = (a + 0.8 * (picture(24, 1) - 0.5)).clamp(0, 1)
    fine, coarse = ssim_terms(a, near)[1], ssim_terms(F.avg_pool2d(a, 2), F.avg_pool2d(near, 2))[0]
    first, second = (w / sum(SCALE_WEIGHTS[:2]) for w in SCALE_WEIGHTS[:2])
    expected = (fine**first * coarse**second).mean().item()
    assert quality.compare(a, near)["ms_ssim"] == pytest.approx(expected, abs=1e-5)


def test_a_negative_has_no_structure_in_common():
    image = picture(64)
    # Covariances are negative everywhere: clamped to 0 before the scales' geometric mean
    assert quality.compare(image, 1 - image)["ms_ssim"] == 0


def test_more_noise_is_less_alike_by_every_measure():
    image, noise = picture(48), picture(48, 5) - 0.5
    found = [quality.compare(image, (image + k * noise).clamp(0, 1)) for k in (0.1, 0.3, 1.0)]
    for measure in ("psnr", "ms_ssim", "fsim"):
        values = [one[measure] for one in found]
        assert values == sorted(values, reverse=True)
        assert values[0] - values[2] > 0.05


def test_fsim_is_blind_to_a_shift_of_brightness_which_psnr_is_not():
    image = picture(48)
    found = quality.compare(image * 0.8, image * 0.8 + 0.1)
    assert found["fsim"] > 0.99
    assert found["psnr"] == pytest.approx(20, abs=1e-3)


def test_two_flat_images_have_no_edges_to_differ_in():
    found = quality.compare(torch.zeros(3, 32, 32), torch.ones(3, 32, 32))
    assert found["fsim"] == 1
    assert found["psnr"] == 0
    assert found["ms_ssim"] < 0.1


def test_pairs_are_compared_one_by_one():
    a, b = torch.stack([picture(32), picture(32, 1)]), torch.stack([picture(32), picture(32, 2)])
    first, second = quality.ms_ssim(a, b).tolist()
    assert first == pytest.approx(1, abs=1e-6)
    assert second == pytest.approx(quality.compare(a[1], b[1])["ms_ssim"], abs=1e-6)


@pytest.mark.parametrize(
    ("a", "b", "sentence"),
    [
        (torch.zeros(3, 32, 32), torch.zeros(3, 32, 40), "images of 32x32 and 40x32 px cannot be compared: resize one"),
        (torch.zeros(3, 8, 8), torch.zeros(3, 8, 8), "16 px or more, not \\[3, 8, 8\\]"),
        (torch.zeros(1, 3, 32, 32), torch.zeros(3, 32, 32), "as \\[3, H, W\\]"),
        (torch.zeros(3, 32, 32, dtype=torch.uint8), torch.zeros(3, 32, 32), "floats in 0..1, not as uint8"),
        (torch.zeros(3, 32, 32), torch.full((3, 32, 32), 1.5), "goes from 1.5 to 1.5: clamp it"),
        (torch.full((3, 32, 32), float("nan")), torch.zeros(3, 32, 32), "in 0..1"),
    ],
)
def test_what_cannot_be_compared(a, b, sentence):
    with pytest.raises(FvfastError, match=sentence):
        quality.compare(a, b)


def test_without_piq_it_says_how_to_get_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "piq", None)
    with pytest.raises(FvfastError, match="pip install 'fvfast\\[quality\\]'"):
        quality.compare(picture(16), picture(16))
