"""`lucent.optvis.param.resize_bilinear_nd`."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from fvfast.compat.lucent.optvis.param.lowres import resized
from fvfast.errors import FvfastError


def resize_bilinear_nd(t: Tensor, target_shape: Sequence[int]) -> Tensor:
    """A tensor at another shape with as many axes, linearly interpolated along each; corners stay where they are."""
    if len(target_shape) != t.dim():
        raise FvfastError(f"a tensor of {t.dim()} axes is resized to as many sizes, not to {list(target_shape)}")
    for axis, size in enumerate(target_shape):
        t = resized(t, axis, size)
    return t
