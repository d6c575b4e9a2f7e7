"""`lucent.optvis.param.lowres`: a tensor as a smaller one, interpolated."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from fvfast.compat.lucent.optvis.param.spatial import default_device


def lowres_tensor(
    shape: Sequence[int],
    underlying_shape: Sequence[int],
    offset: bool | float | list[bool | float] | None = None,
    sd: float = 0.01,
) -> tuple[list[Tensor], Callable[[], Tensor]]:
    """A tensor of `shape` (four sizes), linearly interpolated from one of `underlying_shape`.

    offset: by how much it is shifted along each axis, reflected at its edge: one number, or one an axis; True stands
    for half the distance of the underlying entries, None and False for nothing. Sums of several such tensors of
    different sizes make a pyramid, or let a batch share what is coarse (give an axis of the batch a size of 1).
    """
    tensor = (torch.randn(*underlying_shape) * sd).to(default_device()).requires_grad_()
    each = offset if isinstance(offset, list) else [offset] * len(shape)
    shifts = [
        int(whole / under / 2 if shift is True else shift or 0)
        for shift, whole, under in zip(each, shape, underlying_shape, strict=True)
    ]

    def image_f() -> Tensor:
        result = tensor
        for axis, (size, shift) in enumerate(zip(shape, shifts, strict=True)):
            result = _shifted(resized(result, axis, size), axis, shift)
        return result

    return [tensor], image_f


def resized(tensor: Tensor, axis: int, size: int) -> Tensor:
    """Linearly interpolated along one axis, the first and the last entry staying where they are."""
    if tensor.shape[axis] == size:
        return tensor
    lines = tensor.movedim(axis, -1)
    flat = F.interpolate(lines.reshape(1, -1, lines.shape[-1]), size=size, mode="linear", align_corners=True)
    return flat.reshape(*lines.shape[:-1], size).movedim(-1, axis)


def _shifted(tensor: Tensor, axis: int, shift: int) -> Tensor:
    """Moved towards higher indices along one axis; what comes in is reflected at the first entry."""
    if shift <= 0:
        return tensor
    return torch.cat(
        [tensor.narrow(axis, 1, shift).flip(axis), tensor.narrow(axis, 0, tensor.shape[axis] - shift)], axis
    )
