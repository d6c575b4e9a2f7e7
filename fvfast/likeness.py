"""How far two images are apart, by the measures that image processing knows. Needs piq, from the extra `quality`."""

from __future__ import annotations

import math
from types import ModuleType

import torch
from torch import Tensor

from fvfast.errors import FvfastError

SMALLEST = 16  # pixels; fvfast's smallest canvas

# The weights of MS-SSIM's five scales, the finest first (Wang, Simoncelli & Bovik 2003).
SCALE_WEIGHTS = (0.0448, 0.2856, 0.3001, 0.2363, 0.1333)
_WINDOW = 11  # pixels; of SSIM's Gaussian


def compare(a: Tensor, b: Tensor) -> dict[str, float]:
    """How alike two images are.

    a, b: [3, H, W] in 0..1, of one size from 16 px up.

    Returns
        psnr: decibels, 10 log10(1 / mean square difference); infinite for equal images.
        ms_ssim: 0 to 1 (equal), the structure of the images at several scales; see `ms_ssim`.
        fsim: 0 to 1 (equal), where edges and lines lie, how strong they are, and their colour (FSIMc, Zhang et al.
            2011); 1 where neither image has any.
        rms: root mean square difference, in the unit of the images.

    Raises FvfastError where the images do not fit each other or these bounds, or piq is not installed.
    """
    a, b = (_checked(image) for image in (a, b))
    if a.shape != b.shape:
        raise FvfastError(f"images of {_size(a)} and {_size(b)} px cannot be compared: resize one of them first")
    square = float((a.double() - b.double()).square().mean())
    return {
        "psnr": -10 * math.log10(square) if square else math.inf,
        "ms_ssim": float(ms_ssim(a[None], b[None])),
        "fsim": 1.0 if _flat(a) and _flat(b) else float(_piq().fsim(a[None], b[None], data_range=1.0)),
        "rms": math.sqrt(square),
    }


def ms_ssim(a: Tensor, b: Tensor) -> Tensor:
    """Multi-scale structural similarity of pairs of images, [B].

    a, b: [B, 3, H, W] in 0..1, 11 px or more. Its five scales need 161 px: a smaller image is compared at the finest
    scales it has room for (four from 81 px, three from 41, two from 21, one below), their weights scaled to a sum of
    1. So values of images of different sizes do not compare; those of one size do.
    """
    weights = torch.tensor(SCALE_WEIGHTS[: scales(min(a.shape[-2:]))], device=a.device)
    return _piq().multi_scale_ssim(a, b, data_range=1.0, reduction="none", scale_weights=weights)


def scales(size: int) -> int:
    """How many of MS-SSIM's scales an image has room for: at the coarsest, one window must fit."""
    return sum((_WINDOW - 1) * 2**k + 1 <= size for k in range(len(SCALE_WEIGHTS)))


def _checked(image: Tensor) -> Tensor:
    if image.dim() != 3 or image.shape[0] != 3 or min(image.shape[1:]) < SMALLEST:
        raise FvfastError(f"images are compared as [3, H, W] of {SMALLEST} px or more, not {list(image.shape)}")
    if not image.is_floating_point():
        raise FvfastError(f"images are compared as floats in 0..1, not as {str(image.dtype).removeprefix('torch.')}")
    if not (image.min() >= 0 and image.max() <= 1):  # so written that NaN fails too
        raise FvfastError(
            f"images are compared in 0..1; this one goes from {image.min().item():.3g} to {image.max().item():.3g}: "
            "clamp it first"
        )
    return image.detach().float()


def _flat(image: Tensor) -> bool:
    """Whether an image has no edge that 8 bits would show. FSIM weights by edges: without any it weights rounding."""
    return bool((image.amax((1, 2)) - image.amin((1, 2))).max() < 1 / 255)


def _size(image: Tensor) -> str:
    return f"{image.shape[2]}x{image.shape[1]}"


def _piq() -> ModuleType:
    try:
        import piq
    except ImportError as error:
        raise FvfastError("comparing images needs piq: pip install 'fvfast[quality]'") from error
    return piq
