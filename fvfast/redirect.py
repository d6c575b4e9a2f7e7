"""Gradients that find their way around dead ReLUs.

Where a whole image lies on a ReLU's flat side, no gradient gets past, and an image that starts there stays as it is.
Redirection lets the gradient through as if the ReLU were not there, wherever following it would leave the flat side.
After lucid's `redirected_relu_grad` (lucid/misc/redirected_relu_grad.py), here for every image by itself, at every
module and function that clamps.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode

_NONE = -math.inf


class Redirection(TorchFunctionMode):
    """While entered, ReLUs of this thread redirect the gradients of some images, by modules and functions alike.

    No module is touched: calls are caught on their way to torch. ReLU, ReLU6, Hardtanh and clamps of numbers are known;
    activations that are flat nowhere for a whole image (LeakyReLU, GELU, SiLU) need nothing.
    """

    def __init__(self, images: Tensor, count: Tensor, steps: int) -> None:
        """images: [B] bool, which may be redirected. count: steps taken, on their device; from `steps` on, none is."""
        super().__init__()
        self.images, self.count, self.steps = images, count, steps

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        bounds = _bounds(func, args, kwargs)
        if bounds is None or not args[0].requires_grad or len(args[0]) != len(self.images):
            return func(*args, **kwargs)
        active = self.images & (self.count < self.steps)  # [B]
        low, high = bounds
        return _Clamp.apply(args[0], low, high, active)


class _Clamp(torch.autograd.Function):
    """x between bounds, with a redirected gradient where an image would have none."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, low: float, high: float, active: Tensor) -> Tensor:
        ctx.save_for_backward(x, active)
        ctx.bounds = low, high
        return x.clamp(None if low == _NONE else low, None if high == math.inf else high)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None, None]:
        x, active = ctx.saved_tensors
        return redirected(x, gradients[0], *ctx.bounds, active), None, None, None


def redirected(x: Tensor, gradient: Tensor, low: float, high: float, active: Tensor) -> Tensor:
    """The gradient at x of a clamp to low .. high, given the loss's gradient at its output. All shapes [B, ...].

    For images that are `active` [B] and would get no gradient at all, it passes where the descent that it asks for
    would leave the flat side: below `low` where it is negative, above `high` where it is positive.
    """
    below, above = x <= low, x >= high
    plain = gradient.masked_fill(below | above, 0)
    dead = plain.flatten(1).abs().amax(1) == 0  # [B]
    further = (below & (gradient > 0)) | (above & (gradient < 0))
    chosen = (active & dead).view(-1, *[1] * (x.dim() - 1))
    return torch.where(chosen, gradient.masked_fill(further, 0), plain)


def _bounds(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[float, float] | None:
    """Between which numbers a call clamps its first argument; None for any other call."""
    read = _CLAMPS.get(func)
    if read is None or not args or not isinstance(args[0], Tensor) or not args[0].is_floating_point():
        return None
    low, high = read(*args[1:], **kwargs)
    if isinstance(low, Tensor) or isinstance(high, Tensor):
        return None
    return (_NONE if low is None else float(low)), (math.inf if high is None else float(high))


def _relu(*_: Any, **__: Any) -> tuple[float, None]:
    return 0.0, None


def _relu6(*_: Any, **__: Any) -> tuple[float, float]:
    return 0.0, 6.0


def _hardtanh(min_val: float = -1.0, max_val: float = 1.0, inplace: bool = False) -> tuple[float, float]:
    return min_val, max_val


def _clamp(min: Any = None, max: Any = None, out: Any = None) -> tuple[Any, Any]:
    return min, max


# In-place forms are left alone: what they return has to be what they were given.
_CLAMPS: dict[Any, Callable[..., tuple[Any, Any]]] = {
    F.relu: _relu,
    torch.relu: _relu,
    Tensor.relu: _relu,
    F.relu6: _relu6,
    F.hardtanh: _hardtanh,
    torch.clamp: _clamp,
    torch.clip: _clamp,
    Tensor.clamp: _clamp,
    Tensor.clip: _clamp,
}
