"""The numbers of a picture, however they are laid out and whatever they mean, as channels in 0..1."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from fvfast.channels import MOST
from fvfast.errors import FvfastError

CHANNELS = (1, 3, 4)  # grey, colours, colours with an opacity
FORM = "a picture must be [H, W], or have 1, 3 or 4 channels first or last"
SEVERAL = f"a picture must be [H, W], or have 1 to {MOST} channels first or last"
SLACK = 1 / 510  # half a step of 8 bits: what rounding puts beyond 0 or 1
# Between the two is what neither 0..1 nor 0..255 explains: an overshoot, or a normalised picture without its negatives.
NEITHER = (1 + SLACK, 4.0)
LARGEST_16_BIT = 65535


def channels(numbers: np.ndarray | Tensor, several: bool = False) -> Tensor:
    """An array or a tensor as [C, H, W] float32 in 0..1 on the CPU; C is 1, 3 or 4.

    numbers: [H, W], [H, W, C] or [C, H, W], or one such in a batch of one. What they mean is for `scaled` to say.
    several: whether there may be other numbers of channels, up to 16 of them; see `_either`. Raises
    FvfastError where that cannot be told.
    """
    numbers = _plain(numbers)
    if 0 in numbers.shape:
        raise FvfastError(f"a picture of shape {list(numbers.shape)} is empty: give one with pixels")
    return scaled(_channels_first(numbers, several)).contiguous()


def scaled(numbers: Tensor) -> Tensor:
    """Numbers as float32 in 0..1, by their type and, where that leaves it open, by the largest.

    bool, and 8 and 16 bits without a sign: their own range. Other integers: 0..255, or 0..65535 where the largest is
    above 255. Floating point: 0..1, or 0..255 where the largest is above 1. Raises FvfastError where it is none of
    these: negative, not finite, too large, integers that are 0 and 1 only, or floats of which the largest is above 1
    and below 4.
    """
    if numbers.dtype == torch.bool:
        return numbers.float()
    if numbers.dtype == torch.uint8:
        return numbers.float() / 255
    if numbers.dtype == torch.uint16:
        return numbers.float() / LARGEST_16_BIT
    exact = numbers if numbers.dtype == torch.float32 else numbers.double()
    low, high = float(exact.min()), float(exact.max())
    if not (np.isfinite(low) and np.isfinite(high)):
        raise FvfastError("a picture's values must be finite numbers: this one has NaN or infinity among them")
    if low < (-SLACK if numbers.is_floating_point() else 0):
        raise FvfastError(
            f"a picture's values must be 0..1 or 0..255, not {low:g}..{high:g}: undo what normalised it first"
        )
    return (exact / _full(numbers, high)).float().clamp(0, 1)


def _full(numbers: Tensor, high: float) -> float:
    """What value of those that a type leaves open is white."""
    if numbers.is_floating_point():
        if high <= NEITHER[0]:
            return 1.0
        if NEITHER[1] <= high <= 255.5:
            return 255.0
        advice = "clamp it to 1 or undo what normalised it" if high < NEITHER[1] else "scale it to 0..1"
        raise FvfastError(f"a picture with values up to {high:g} is neither in 0..1 nor in 0..255: {advice}")
    if high == 1:
        raise FvfastError("a picture of the integers 0 and 1 may be a mask or almost black: give it as bool or uint8")
    if high > LARGEST_16_BIT:
        raise FvfastError(f"a picture with integers up to {high:.0f} is neither 8 nor 16 bits deep: scale it to 0..1")
    return 255.0 if high <= 255 else float(LARGEST_16_BIT)


def _plain(numbers: np.ndarray | Tensor) -> Tensor:
    """A dense tensor on the CPU that knows no gradient, in a type that torch can reckon with."""
    if isinstance(numbers, np.ndarray):
        if numbers.dtype.kind not in "buif":
            raise FvfastError(f"a picture's values must be real numbers, not {numbers.dtype}")
        if numbers.dtype.itemsize > 8:  # numpy's long double, which torch has not
            numbers = numbers.astype(np.float64)
        # torch takes neither foreign byte orders nor axes that run backwards.
        return torch.from_numpy(np.array(numbers, dtype=numbers.dtype.newbyteorder("="), order="C"))
    if numbers.is_meta or numbers.layout != torch.strided or numbers.is_quantized or numbers.is_complex():
        kind = "meta tensor" if numbers.is_meta else f"{numbers.dtype} tensor, {numbers.layout}"
        raise FvfastError(f"a picture must be a dense tensor of real numbers, not a {kind}")
    return numbers.detach().cpu()


def _channels_first(numbers: Tensor, several: bool) -> Tensor:
    """[C, H, W] from [H, W], [H, W, C] or [C, H, W], or one such in a batch of one."""
    form, shape = SEVERAL if several else FORM, list(numbers.shape)
    if len(shape) == 4:
        if shape[0] != 1:
            raise FvfastError(f"{shape} are {shape[0]} pictures where one is needed: give one of them")
        numbers = numbers[0]
    if numbers.dim() == 2:
        return numbers[None]
    if numbers.dim() != 3:
        raise FvfastError(f"{form}, not {shape}")
    first, last = (numbers.shape[axis] in CHANNELS for axis in (0, -1))
    if several and not (first or last):
        first, last = _either(*numbers.shape)
    if first and last:
        cure = f"make it more than {MOST} px wide and high" if several else "give a PIL image, which knows them"
        raise FvfastError(f"a picture of shape {shape} may have its channels first or last: {cure}")
    if not first and not last:
        raise FvfastError(f"{form}, not {shape}")
    return numbers if first else numbers.permute(2, 0, 1)


def _either(first: int, middle: int, last: int) -> tuple[bool, bool]:
    """Whether an array has its channels first, and last, where neither axis is as long as grey or colours have it.

    A small picture's sides could be channels as well: then they are first, which is PyTorch's way, unless only the
    other reading gives a square.
    """
    both = first <= MOST and last <= MOST
    return first <= MOST, last <= MOST and (not both or (first == middle != last))
