"""Two pictures side by side: read from files' bytes, brought to one size, and where they differ."""

from __future__ import annotations

import io

import numpy as np
import PIL.Image
import torch
import torch.nn.functional as F
from torch import Tensor

from fvfast.errors import FvfastError


def decode(data: bytes) -> Tensor:
    """The picture in a file's bytes, [3, H, W] float32 in 0..1. Raises FvfastError where it is none."""
    try:
        picture = PIL.Image.open(io.BytesIO(data)).convert("RGB")
    except (OSError, SyntaxError, ValueError) as error:
        raise FvfastError("this file is not a readable picture") from error
    return torch.from_numpy(np.array(picture)).permute(2, 0, 1).float() / 255


def matched(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """Two pictures [3, H, W] at the larger one's size: the smaller is enlarged, so that neither loses anything."""
    size = max(a.shape[1:], b.shape[1:], key=lambda shape: shape[0] * shape[1])
    return _resized(a, size), _resized(b, size)


def _resized(image: Tensor, size: torch.Size) -> Tensor:
    if image.shape[1:] == size:
        return image
    return F.interpolate(image[None], size=size, mode="bicubic", align_corners=False)[0].clamp(0, 1)


def difference(a: Tensor, b: Tensor) -> Tensor:
    """How far two pictures [3, H, W] of one size are apart at each place: the mean of the channels' |a - b|, [H, W]."""
    return (a - b).abs().mean(0)
