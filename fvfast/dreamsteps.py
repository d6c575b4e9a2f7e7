"""How a gradient becomes a step of a dream: smoothed in bands for pixels, or taken in the Fourier basis.

A raw gradient is mostly high frequencies, and following it gives noise. Both ways here hand on a direction with the
frequencies evened out; how far to go along it is the dream's own choice.
"""

from __future__ import annotations

from typing import Protocol

import torch
import torch.nn.functional as F
from fvfast_kernels import adam_
from torch import Tensor

from fvfast.images import COLOUR, envelope

LARGEST_DETAIL = 48.0  # pixels: the wavelength from which on the Fourier basis grows no stronger


class Step(Protocol):
    """From a picture's gradient [3, H, W] to the direction in which to go, [3, H, W], mean size 1."""

    def __call__(self, gradient: Tensor) -> Tensor: ...


class PixelStep:
    """Every band of frequencies, an octave wide, scaled to the same strength: a normalised Laplacian pyramid.

    After Mordvintsev's DeepDream notebook for TensorFlow (2015). finest: how much of that strength the band of the
    finest details gets, and the next one the square root of it: photographs have less there too. coarsest: how much is
    left of what is larger than all bands, which brightens and darkens whole regions until they burn out.
    """

    def __init__(self, levels: int = 5, finest: float = 0.3, coarsest: float = 0.2) -> None:
        self.levels, self.finest, self.coarsest = levels, finest, coarsest

    def __call__(self, gradient: Tensor) -> Tensor:
        band = gradient[None]  # [1, 3, H, W]
        bands: list[Tensor] = []
        while len(bands) < self.levels and min(band.shape[-2:]) >= 4:
            coarser = F.avg_pool2d(band, 2, ceil_mode=True, count_include_pad=False)
            bands.append(band.sub_(_to_size(coarser, band)) if bands else band - _to_size(coarser, band))
            band = coarser
        step = _normalised(band) * self.coarsest
        for level in reversed(range(len(bands))):
            strength = {0: self.finest, 1: self.finest**0.5}.get(level, 1.0)
            step = _to_size(step, bands[level]).add_(_normalised(bands.pop()), alpha=strength)
        return _normalised(step)[0]


class FourierStep:
    """Adam on a spectrum scaled by 1/f with decorrelated colours, as `fvfast render` moves an image.

    The change to the photograph is what is parameterised: change = colour @ irfft2(envelope * spectrum).
    """

    def __init__(self, height: int, width: int, device: torch.device, decay: float = 1.0) -> None:
        self.size = (height, width)
        scale = envelope("lucid", height, width, decay)  # [H, M]
        # As in the pyramid, what is larger than its bands is held back: whole regions would darken or burn out.
        scale = scale.clamp(max=LARGEST_DETAIL**decay)
        scale[0, 0] = 0
        self.envelope = scale.to(device)
        self.colour = COLOUR.to(device)
        # A stand-in for the spectrum: after each step it is set back to 0, and only the moments live on.
        self.moved, self.first, self.second = (torch.zeros(3, 2, *self.envelope.shape, device=device) for _ in range(3))
        self.count = 0

    def __call__(self, gradient: Tensor) -> Tensor:
        self.count += 1
        mixed = torch.einsum("oc,ohw->chw", self.colour, gradient)
        transform = torch.fft.rfft2(mixed, norm="ortho") * self.envelope  # [3, H, M]
        planes = torch.view_as_real(transform).permute(0, 3, 1, 2).contiguous()  # [3, 2, H, M]
        # Adam's step does not change with the gradient's scale, but its epsilon would.
        planes /= planes.square().mean().sqrt().clamp(min=1e-30)
        self.moved.zero_()
        adam_(self.moved, -planes, self.first, self.second, self.count, 1.0)
        spectrum = torch.complex(self.moved[:, 0], self.moved[:, 1]) * self.envelope
        change = torch.fft.irfft2(spectrum, s=self.size, norm="ortho")
        return _normalised(torch.einsum("oc,chw->ohw", self.colour, change))


def _to_size(image: Tensor, like: Tensor) -> Tensor:
    return F.interpolate(image, size=like.shape[-2:], mode="bilinear", align_corners=False)


def _normalised(image: Tensor) -> Tensor:
    """At a mean size of 1; as it is where there is nothing."""
    return image / image.abs().mean().clamp(min=1e-30)
