"""`lucent.optvis.param.images`."""

from __future__ import annotations

from torch import Tensor

from fvfast.compat.lucent.optvis.param.color import Rgb, to_valid_rgb
from fvfast.compat.lucent.optvis.param.spatial import fft_image, pixel_image


def image(
    w: int,
    h: int | None = None,
    sd: float | None = None,
    batch: int | None = None,
    decorrelate: bool = True,
    fft: bool = True,
    channels: int | None = None,
) -> tuple[list[Tensor], Rgb]:
    """`batch` images of w x h pixels in 0..1, by their Fourier spectra or (fft=False) by pixels.

    channels: any number of them, then without mixing colours; None for red, green and blue.
    """
    shape = [batch or 1, channels or 3, h or w, w]
    params, image_f = (fft_image if fft else pixel_image)(shape, sd=sd)
    return params, to_valid_rgb(image_f, decorrelate=decorrelate and not channels)
