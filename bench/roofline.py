"""What a network's forward and backward pass must compute and move, layer by layer, and how long a card needs for it.

Counted from the recorded network (`fvfast.tape`), with every operation and its shapes. Four ways to run it:

    modules     every operation in a pass of its own: convolution, bias, activation; masks, sums of gradients
    recorded    padding, convolution, bias and ReLU in one kernel forwards (ReLU6's upper bound apart, and all of it at
                depthwise convolutions); masks apart
    compiled    what lies between two convolutions in one pass, in both directions; padding and concatenation too
    fused       what a kernel written for it could do: bias, activation and padding inside of the convolution, the
                mask where the gradient is read, the sum of two gradients where the second is written, concatenation
                by writing into a slice

A tensor counts once for every time it is read or written in half precision; a kernel takes as long as the slower of
its arithmetic and its memory at the rates of an H100 (989 Tflop/s dense bfloat16, 3.35 TB/s): a bound that no kernel
reaches, and caches that hold what comes next are left out.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch

from fvfast.tape import Op, Tape

aten = torch.ops.aten
FLOPS, BANDWIDTH = 989e12, 3.35e12  # a second, of an H100 SXM
BYTES = 2  # a number in half precision
INDEX = 8  # of a pooling's maximum
WAYS = ("modules", "recorded", "compiled", "fused")
ACTIVATIONS = frozenset(
    {aten.relu.default, aten.hardtanh.default, aten.hardswish.default, aten.silu.default, aten.hardsigmoid.default}
)


@dataclass(frozen=True)
class Kernel:
    """One pass of the device over its memory. what: "convolution", "gradient" or "between"."""

    what: str
    flops: float
    read: float  # bytes
    written: float

    @property
    def seconds(self) -> float:
        return max(self.flops / FLOPS, (self.read + self.written) / BANDWIDTH)


def kernels(tape: Tape, way: str) -> Iterator[Kernel]:
    """The kernels of a forward and backward pass in one of `WAYS`."""
    uses = tape.uses()
    maker = {place: op for op in tape.ops for place in op.out if place is not None}
    reader = {place: op for op in tape.ops for place in op.inputs}
    for op in tape.ops:
        out = next(place for place in op.out if place is not None)
        if op.call is aten.convolution.default and isinstance(op.args[1], torch.Tensor):
            source = op.inputs[0]
            before = maker.get(source)
            if way in ("recorded", "fused") and before is not None and before.call is aten.constant_pad_nd.default:
                source = before.inputs[0]
            activation = reader.get(out) if uses[out] == 1 else None
            clamped = activation is not None and activation.call in ACTIVATIONS
            yield from _convolution(op, tape, source, out, way, activation.call if clamped and activation else None)
        else:
            yield from _between(op, tape, out, way, _follows_convolution(op, maker, uses))
    for place, count in uses.items():
        # Where a tensor is read more than once, its gradient is a sum.
        size = _size(tape, place)
        if place in maker and way in ("modules", "recorded"):
            yield from (Kernel("between", 0, 2 * size, size) for _ in range(count - 1))
        elif place in maker:
            yield from (Kernel("between", 0, size, 0) for _ in range(count - 1))


def _convolution(op: Op, tape: Tape, source: int, out: int, way: str, activation: object) -> Iterator[Kernel]:
    weight = op.args[1]
    image, made, weights = _size(tape, source), _size(tape, out), weight.numel() * BYTES
    flops = 2.0 * math.prod(tape.shapes[out]) * weight[0].numel()
    yield Kernel("convolution", flops, image + weights, made)
    biased = op.args[2] is not None
    rectified = activation in (aten.relu.default, aten.hardtanh.default) and op.args[8] == 1
    if biased and way != "fused" and not (way == "recorded" and rectified):
        yield Kernel("between", 0, made, made)  # with the activation, where compiled
    apart = way == "modules" or (way == "recorded" and not (activation is aten.relu.default and rectified))
    if activation and (apart or (way == "compiled" and not biased)):
        yield Kernel("between", 0, made, made)
    if activation and way != "fused":
        yield Kernel("between", 0, 2 * made, made)  # the mask
    yield Kernel("gradient", flops, (2 if activation and way == "fused" else 1) * made + weights, image)


def _between(op: Op, tape: Tape, out: int, way: str, done: bool) -> Iterator[Kernel]:
    """An operation that is no convolution, forwards and backwards."""
    read, made = sum(_size(tape, place) for place in op.inputs), _size(tape, out)
    if done or (way in ("compiled", "fused") and op.call is aten.cat.default):
        return
    if op.call is aten.constant_pad_nd.default and way != "modules":
        if way == "compiled":  # by whatever makes its input; backwards by the mask that reads it
            yield Kernel("between", 0, 0, made)
        return
    if op.call is aten.max_pool2d_with_indices.default:
        indices = made / BYTES * INDEX if way in ("modules", "recorded") else made / BYTES
        yield Kernel("between", 0, read, made + indices)
        yield Kernel("between", 0, made + indices, read)
    elif op.call is aten.add.Tensor:
        yield Kernel("between", 0, read, made)  # its gradient is that of its output
    elif op.call in ACTIVATIONS:
        merged = way in ("compiled", "fused")  # with the sum before it
        if not merged:
            yield Kernel("between", 0, read, made)
        yield Kernel("between", 0, 2 * made, made)
    elif op.call is aten.cat.default:
        yield Kernel("between", 0, read, made)  # backwards it is slices of what is there
    else:
        yield Kernel("between", 0, read, made)
        yield Kernel("between", 0, made, read)


def _follows_convolution(op: Op, maker: dict[int, Op], uses: dict[int, int]) -> bool:
    """Whether an operation is the activation that is counted with the convolution before it."""
    if op.call not in ACTIVATIONS:
        return False
    before = maker.get(op.inputs[0])
    return before is not None and before.call is aten.convolution.default and uses[op.inputs[0]] == 1


def _size(tape: Tape, place: int) -> float:
    return math.prod(tape.shapes[place]) * BYTES


def counted(tape: Tape) -> dict[str, dict[str, float]]:
    """What every way amounts to: Gflop, MB moved and by what, and microseconds by the roofline."""
    found: dict[str, dict[str, float]] = {}
    for way in WAYS:
        every = list(kernels(tape, way))
        between = [kernel for kernel in every if kernel.what == "between"]
        found[way] = {
            "kernels": sum(kernel.written > 0 for kernel in every),  # what is only read is part of another
            "gflop": sum(kernel.flops for kernel in every) / 1e9,
            "mb": sum(kernel.read + kernel.written for kernel in every) / 1e6,
            "mb between": sum(kernel.read + kernel.written for kernel in between) / 1e6,
            "us": sum(kernel.seconds for kernel in every) * 1e6,
            "us between": sum(kernel.seconds for kernel in between) * 1e6,
        }
    return found
