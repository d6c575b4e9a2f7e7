"""`lucent.optvis.param.spatial`: an image as pixels, or as its Fourier spectrum."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

DIVISOR = 4.0  # lucid's: larger values give fainter images


def default_device() -> torch.device:
    """Where lucent puts every parameter: on the first GPU if there is one."""
    return torch.device("cuda:0" if torch.cuda.is_available() else "cpu")


class Pixels:
    """The tensor itself, [B, C, H, W]."""

    def __init__(self, tensor: Tensor) -> None:
        self.tensor = tensor

    def __call__(self) -> Tensor:
        return self.tensor


class Spectrum:
    """The inverse FFT of a scaled half-spectrum.

    tensor: [B, C, H, M, 2], the real and the imaginary part last; M = W // 2 + 1, and one more where W is odd, which
    nothing reads but which makes random starts the same as lucent's. scale: [H, M].
    """

    def __init__(self, tensor: Tensor, scale: Tensor, width: int) -> None:
        self.tensor, self.scale, self.width = tensor, scale, width

    def __call__(self) -> Tensor:
        scaled = torch.view_as_complex(self.tensor * self.scale[..., None])
        height = self.tensor.shape[2]
        image = torch.fft.irfft2(scaled[..., : self.width // 2 + 1], s=(height, self.width), norm="ortho")
        return image / DIVISOR


def pixel_image(shape: Sequence[int], sd: float | None = None) -> tuple[list[Tensor], Pixels]:
    """Images [B, C, H, W] by their pixels, which start as noise of standard deviation `sd` (0.01)."""
    tensor = (torch.randn(*shape) * (sd or 0.01)).to(default_device()).requires_grad_()
    return [tensor], Pixels(tensor)


def rfft2d_freqs(h: int, w: int) -> np.ndarray[Any, np.dtype[np.float64]]:
    """Frequencies of a half-spectrum, in cycles a pixel: [h, w // 2 + 1], a column more where w is odd."""
    fy = np.fft.fftfreq(h)[:, None]
    fx = np.fft.fftfreq(w)[: w // 2 + 1 + w % 2]
    return np.sqrt(fx * fx + fy * fy)


def fft_image(shape: Sequence[int], sd: float | None = None, decay_power: float = 1) -> tuple[list[Tensor], Spectrum]:
    """Images [B, C, H, W] by their spectra, scaled by 1 / max(f, 1 / max(W, H)) ** decay_power."""
    batch, channels, h, w = shape
    frequencies = rfft2d_freqs(h, w)
    device = default_device()
    noise = torch.randn(batch, channels, *frequencies.shape, 2) * (sd or 0.01)
    scale = torch.tensor(1.0 / np.maximum(frequencies, 1.0 / max(w, h)) ** decay_power).float().to(device)
    tensor = noise.to(device).requires_grad_()
    return [tensor], Spectrum(tensor, scale, w)
