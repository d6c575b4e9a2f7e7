"""How far float32 paths through a network are from float64: the plain modules, and the network made fast.

A gradient in float32 has a fault that says nothing about the code that computed it. Where a unit's input lies within a
rounding of its ReLU's edge, float32 and float64 may decide differently whether its gradient passes, and one such unit
among millions moves the gradient by 1e-4 to 2e-2 of its norm (docs/performance.md). So each path is compared with the
float64 gradient that passes where that path lets it pass. What then remains is rounding, by which right is told from
wrong.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, nn

from fvfast.copies import duplicate
from fvfast.distances import distance
from fvfast.kinks import decide, given
from fvfast.layers import Layer, Tap
from fvfast.prepare import Fast
from fvfast.reverse import Reversible
from fvfast.tape import Refused, Tape, record

# How many times further from float64 the fast path may be than the plain modules in float32 are. Over 38 gradients of
# EfficientNet-Lite0 at 96 to 224 px its activations are 3e-6 to 6e-6 off (plain modules' 3e-6 to 5e-6), at most 1.9
# times as much; its gradients 3e-7 to 8e-7 (plain ones' too), at most 1.3 times. 13 networks of torchvision: 1.3, 1.6.
FACTOR = 3.0
# So far it may be in any case: the rounding of float32 is 6e-8, and tiny networks come out exact to one or two.
ROUNDING = 1e-6

TINY = torch.finfo(torch.float64).tiny

Run = Callable[[Tensor], list[Tensor]]


@dataclass(frozen=True)
class Errors:
    """How far a path in float32 is from float64.

    activations: relative L2 error of the wanted outputs and of what every kinked operation puts out, the largest.
    gradient: relative L2 error of the image's gradient, from float64's that passes where the path lets it pass.
    cosine: 1 minus the cosine between these two. bias: how much longer the path's is along the right one, relative.
    apart: relative L2 distance from the gradient that passes where float64 lets it pass.
    switched: how many units, of `units`, pass their gradient in one and not in the other. None where the network's
    operations could not be recorded: nothing is told about its units, and `gradient` is the same as `apart`.
    """

    activations: float
    gradient: float
    cosine: float
    bias: float
    apart: float
    switched: int | None
    units: int | None


def compare(
    module: nn.Module,
    layers: Mapping[str, Layer],
    fast: Fast,
    names: Sequence[str],
    image: Tensor,
    objective: Callable[[dict[str, Tensor]], Tensor],
) -> dict[str, Errors]:
    """The errors of "plain", a `pristine` module in float32, and of "fast", what was made of it.

    names: the layers that the objective reads. image: [B, 3, H, W] in float32, normalised, on the CPU. objective: from
    the layers' outputs by name to one number an image, [B].
    """

    def run_of(tap: Tap | Fast) -> Run:
        return lambda x: list(tap(x, names).values())

    def value(outputs: list[Tensor]) -> Tensor:
        return objective(dict(zip(names, outputs, strict=True)))

    lowered = fast.lowered(image, names)
    with Tap(duplicate(module).double(), layers, names) as exact, Tap(module, layers, names) as plain:
        truth = _Truth(run_of(exact), image, value)
        networks = _modules(run_of(plain), image), lowered or _modules(run_of(fast.tap(names)), image)
        return {
            path: truth.errors(run_of(tap), network and given(network, image))
            for path, tap, network in zip(("plain", "fast"), (plain, fast), networks, strict=True)
        }


def verdict(errors: Mapping[str, Errors]) -> dict[str, Any]:
    """Whether the fast path is as near to float64 as the plain modules are, give or take `FACTOR`.

    Returns {path: its errors}, "bounds": what the fast path's errors of the activations and of the gradient may be at
    most, and "passed".
    """
    bounds = {name: max(FACTOR * getattr(errors["plain"], name), ROUNDING) for name in ("activations", "gradient")}
    passed = all(getattr(errors["fast"], name) <= bound for name, bound in bounds.items())
    return {**{path: asdict(found) for path, found in errors.items()}, "bounds": bounds, "passed": passed}


# Float64 -----------------------------------------------------------------------------------------------------


class _Truth:
    """The unmodified network in float64: outputs and gradient, the latter also as a float32 path lets it pass."""

    def __init__(self, run: Run, image: Tensor, value: Callable[[list[Tensor]], Tensor]) -> None:
        self.image, self.value = image, value
        self.outputs, self.gradient = _look(run, image.double(), value)
        self.tape = _recorded(run, image.double())

    def errors(self, run: Run, inputs: list[Tensor] | None) -> Errors:
        """The errors of a path; inputs: what its kinked operations get (`kinks.given`), None where nobody knows."""
        outputs, gradient = _look(run, self.image, self.value)
        distances = [distance(mine, right) for mine, right in zip(outputs, self.outputs, strict=True)]
        right, switched, units = self.gradient, None, None
        if self.tape is not None and inputs is not None and (decided := decide(self.tape, inputs)):
            as_path, kinks = decided
            _, right = _look(as_path, self.image.double(), self.value)
            distances += [distance(kink.mine, kink.right) for kink in kinks]
            switched, units = sum(kink.switched() for kink in kinks), sum(kink.given.numel() for kink in kinks)
        dot, scale = (gradient.double() * right).sum(), right.norm().clamp(min=TINY)
        return Errors(
            activations=max(distances),
            gradient=distance(gradient, right),
            cosine=float(1 - dot / (gradient.double().norm().clamp(min=TINY) * scale)),
            bias=float(dot / scale**2 - 1),
            apart=distance(gradient, self.gradient),
            switched=switched,
            units=units,
        )


def _recorded(run: Run, image: Tensor) -> Tape | None:
    try:
        return record(run, image)
    except Refused:
        return None


def _modules(run: Run, image: Tensor) -> Reversible | None:
    """A network of modules, recorded as it is."""
    tape = _recorded(run, image)
    return None if tape is None else Reversible(tape)


def _look(run: Run, image: Tensor, value: Callable[[list[Tensor]], Tensor]) -> tuple[list[Tensor], Tensor]:
    """A path's outputs, and the image's gradient of the value."""
    leaf = image.detach().clone().requires_grad_()
    with torch.enable_grad():
        outputs = run(leaf)
        (gradient,) = torch.autograd.grad(value(outputs).sum(), leaf)
    return [output.detach() for output in outputs], gradient
