"""How good a render is: the statistics that tell a picture from noise."""

from __future__ import annotations

import itertools

import torch
from torch import Tensor

from fvfast.intervals import Interval as Interval
from fvfast.intervals import interval as interval
from fvfast.judging import Judge as Judge
from fvfast.judging import SecondNetwork as SecondNetwork
from fvfast.likeness import compare as compare
from fvfast.likeness import ms_ssim as ms_ssim
from fvfast.photographs import LUMA as LUMA


def spectrum_slope(images: Tensor) -> Tensor:
    """Slope of the luminance's power spectrum in log-log coordinates, [B].

    images: [B, 3, H, W] in 0..1. Photographs lie near -2 (Field, "Relations between the statistics of natural
    images", 1987); white noise at 0. Fitted through 16 bands of equal width in log frequency, from 3 cycles an
    image to the Nyquist frequency; 0 for an image without contrast.
    """
    frequency, power = radial_power(images)
    f, p = frequency.log(), power.clamp(min=1e-12).log()  # [K], [B, K]
    f = f - f.mean()
    return (p * f).sum(1) / f.square().sum()


def radial_power(images: Tensor) -> tuple[Tensor, Tensor]:
    """The luminance's power in rings around frequency 0: their frequencies [K], and the mean power in each [B, K].

    images: [B, 3, H, W] in 0..1. Frequencies are in cycles a pixel: 16 bands of equal width in log frequency, from 3
    cycles an image to the Nyquist frequency, without those that no frequency of so small an image falls into.
    """
    power, radius = _power(images)
    size = min(images.shape[-2:])
    edges = torch.logspace(torch.tensor(3 / size).log10().item(), torch.tensor(0.5).log10().item(), 17)
    centres, rings = [], []
    for low, high in itertools.pairwise(edges):
        band = (radius >= low) & (radius < high)
        if band.any():
            centres.append((low * high).sqrt())
            rings.append(power[:, band].mean(1))
    return torch.stack(centres), torch.stack(rings, 1)


def high_frequency(images: Tensor) -> Tensor:
    """Share of the luminance's energy (without its mean) beyond 1/4 cycle a pixel, half the Nyquist frequency, [B]."""
    power, radius = _power(images)
    return power[:, radius > 0.25].sum(1) / power.sum(1).clamp(min=1e-12)


def contrast(images: Tensor) -> Tensor:
    """Standard deviation of the luminance, [B]; 0 for a grey image, 0.5 at most."""
    return _luma(images).std((1, 2), correction=0)


def colourfulness(images: Tensor) -> Tensor:
    """Hasler and Suesstrunk's measure ("Measuring colourfulness in natural images", 2003) for values in 0..1, [B].

    sqrt(var(rg) + var(yb)) + 0.3 sqrt(mean(rg)^2 + mean(yb)^2), rg = R - G, yb = (R + G)/2 - B. On their scale of
    0..255, 33 is moderately, 59 quite, 109 extremely colourful: 0.13, 0.23 and 0.43 here.
    """
    red, green, blue = images.flatten(2).unbind(1)
    rg, yb = red - green, (red + green) / 2 - blue
    spread = (rg.var(1, correction=0) + yb.var(1, correction=0)).sqrt()
    return spread + 0.3 * (rg.mean(1).square() + yb.mean(1).square()).sqrt()


def _luma(images: Tensor) -> Tensor:
    return torch.einsum("bchw,c->bhw", images, torch.tensor(LUMA).to(images))


def _power(images: Tensor) -> tuple[Tensor, Tensor]:
    """Power of every non-zero frequency [B, N], and how many cycles a pixel it is [N].

    Under a Hann window: the jump where an image's edges meet would otherwise look like high frequencies.
    """
    luma = _luma(images)
    height, width = luma.shape[-2:]
    window = torch.outer(torch.hann_window(height), torch.hann_window(width)).to(luma)
    mean = (luma * window).sum((1, 2), keepdim=True) / window.sum()
    power = torch.fft.fft2((luma - mean) * window).abs().square()  # [B, H, W]
    fy, fx = torch.fft.fftfreq(height)[:, None], torch.fft.fftfreq(width)[None]
    radius = (fy.square() + fx.square()).sqrt()
    keep = radius > 0
    return power[:, keep], radius[keep]
