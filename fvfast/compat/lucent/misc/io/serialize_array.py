"""`lucent.misc.io.serialize_array`: an array as the bytes of an image file."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
import PIL.Image

from fvfast.errors import FvfastError


def serialize_array(
    array: np.ndarray[Any, Any], domain: tuple[float, float] | None = (0, 1), fmt: str = "png", quality: int = 70
) -> bytes:
    """An image [H, W] or [H, W, 1, 3 or 4], or a batch of one, in a format of Pillow's ("png", "jpeg").

    domain: what black and white are; None for the smallest and the largest value. quality: of formats that lose some.
    """
    buffer = io.BytesIO()
    array = array[0] if array.ndim == 4 and len(array) == 1 else array
    try:
        to_picture(array, domain).save(buffer, format=fmt, quality=quality)
    except (KeyError, OSError) as error:  # Pillow knows no such format, or it has no place for these channels
        raise FvfastError(f"an image {list(array.shape)} cannot be written as {fmt!r}: use png") from error
    return buffer.getvalue()


def to_picture(array: np.ndarray[Any, Any], domain: tuple[float, float] | None = (0, 1)) -> PIL.Image.Image:
    """An array [H, W] or [H, W, 1, 3 or 4] as 8 bits a channel, rounded to nearest; one of bytes is taken as it is."""
    if array.ndim == 3 and array.shape[2] == 1:
        array = array[..., 0]
    if array.ndim not in (2, 3) or (array.ndim == 3 and array.shape[2] not in (3, 4)):
        raise FvfastError(f"an image is [H, W] or [H, W, 1, 3 or 4], not {list(array.shape)}")
    if array.dtype == np.uint8 and domain == (0, 1):
        return PIL.Image.fromarray(array)
    if not np.isfinite(array).all():
        raise FvfastError("an image holds numbers that are not finite: numpy.nan_to_num replaces them")
    low, high = (float(array.min()), float(array.max())) if domain is None else domain
    scaled = (array.astype(np.float64) - low) / max(high - low, 1e-12)
    return PIL.Image.fromarray((scaled.clip(0, 1) * 255).round().astype(np.uint8))
