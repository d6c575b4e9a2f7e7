"""How far two tensors are apart."""

from __future__ import annotations

from torch import Tensor


def distance(value: Tensor, reference: Tensor) -> float:
    """The relative L2 error of a value, reckoned in float64; the error itself where the reference is zero."""
    error, scale = (value.double() - reference.double()).norm(), reference.double().norm()
    return float(error / scale) if scale > 0 else float(error)
