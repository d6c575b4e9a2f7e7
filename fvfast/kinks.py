"""Where a network's gradient jumps, and the gradient that another path through the same network lets pass there.

Two paths that round differently may decide differently about a unit that lies on the edge of its ReLU. Comparing their
gradients tells right from wrong only where both decide alike.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from fvfast.fusion import Convolution
from fvfast.reverse import Reversible
from fvfast.tape import Tape

aten = torch.ops.aten
# Operations whose gradient jumps: at an edge, or where another number becomes the largest.
KINKED = frozenset(
    {
        aten.relu.default,
        aten.hardtanh.default,
        aten.leaky_relu.default,
        aten.clamp.default,
        aten.clamp_min.default,
        aten.hardswish.default,
        aten.hardsigmoid.default,
        aten.max_pool2d_with_indices.default,
    }
)
LEAST_JUMP = 0.1  # of a derivative at a kink; hardsigmoid's is 1/6


@torch.no_grad()
def given(network: Reversible, image: Tensor) -> list[Tensor]:
    """What a network's kinked operations get for an image, in the order in which they were recorded.

    A clamp inside of a convolution keeps no input: its output stands for it, since clamping that again changes nothing.
    """
    _, kept = network.forwards(image)
    found: dict[int, Tensor] = {}
    for op, saved in zip(network.tape.ops, kept, strict=True):
        place = op.out[0] or 0
        if isinstance(op.call, Convolution):
            if op.call.clamp is not None:
                found[place] = saved[1]
        elif op.call in KINKED:
            leaves, _ = saved
            found[place] = leaves[op.inputs[0]].detach()
    return [found[place] for place in sorted(found)]


def decide(tape: Tape, inputs: Sequence[Tensor]) -> tuple[Tape, list[Kink]] | None:
    """The tape with its own values, and with the gradient that passes where it would for a path's `inputs` (`given`).

    None where the path's kinked operations are not the tape's.
    """
    shapes = [tape.shapes[op.inputs[0]] for op in tape.ops if op.call in KINKED]
    if shapes != [mine.shape for mine in inputs]:
        return None
    left = iter(inputs)
    ops = [replace(op, call=Kink(op.call, next(left))) if op.call in KINKED else op for op in tape.ops]
    return replace(tape, ops=tuple(ops)), [op.call for op in ops if isinstance(op.call, Kink)]


class Kink:
    """An operation with the values it has, and the gradient that it would have where it were `given` something else.

    Once it has run: mine, right: what it puts out for what was given, and for what it got.
    """

    def __init__(self, call: Callable[..., Any], given: Tensor) -> None:
        self.call, self.given = call, given
        self.mine = self.right = self._got = given
        self._run: Callable[[Tensor], Tensor] = call

    def __call__(self, x: Tensor, *more: Any, **named: Any) -> Any:
        def run(v: Tensor) -> Tensor:
            found = self.call(v, *more, **named)
            return found[0] if isinstance(found, tuple) else found

        given = self.given.to(x.dtype)
        mine, self.right = run(given + (x - x.detach())), run(x.detach())
        self.mine = mine.detach()
        self._run, self._got = run, x.detach()
        found = mine + (self.right - self.mine)
        return (found, None) if self.call is aten.max_pool2d_with_indices.default else found

    def switched(self) -> int:
        """How many units pass their gradient for the one and not for the other."""
        slopes = [_slope(self._run, at) for at in (self.given.to(self._got.dtype), self._got)]
        return int(((slopes[0] - slopes[1]).abs() > LEAST_JUMP).sum())


def _slope(run: Callable[[Tensor], Tensor], at: Tensor) -> Tensor:
    with torch.enable_grad():
        leaf = at.detach().requires_grad_()
        return torch.autograd.grad(run(leaf).sum(), leaf)[0]
