"""A fused network forwards and backwards as two plain loops: one node for autograd instead of one an operation.

Autograd's own bookkeeping costs some 30 microseconds a convolution, which at 128 px is a fifth of a step
(docs/performance.md). Convolutions and additions know their gradients here; any other operation keeps a small graph of
its own.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from fvfast.fusion import Convolution
from fvfast.tape import Op, Tape, filled

aten = torch.ops.aten


class Reversible:
    """A fused tape, differentiable in the image. Calling it gives the tape's outputs."""

    def __init__(self, tape: Tape) -> None:
        self.tape = tape
        self.steps = [(_is_addition(op, tape), op) for op in tape.ops]

    def __call__(self, image: Tensor) -> list[Tensor]:
        if torch.is_grad_enabled() and image.requires_grad:
            return list(_Replay.apply(image, self))  # pyright: ignore[reportArgumentType]
        return self.tape(image)

    def forwards(self, image: Tensor) -> tuple[dict[int, Tensor], list[Any]]:
        """What every operation made, by place, and what its gradient will ask for."""
        memory, kept = {0: image}, []
        for number, (addition, op) in enumerate(self.steps):
            if isinstance(op.call, Convolution):
                source = memory[op.args[0].index]
                output = op.call.forward(source)
                kept.append(op.call.kept(source, output))
                results = (output,)
            elif addition:
                results = (memory[op.args[0].index] + memory[op.args[1].index],)
                kept.append(None)
            else:
                results, graph = _with_graph(op, memory)
                kept.append(graph)
            for place, result in zip(op.out, results, strict=True):
                if place is not None:
                    memory[place] = result
            for place in self.tape.spent[number]:
                del memory[place]
        return memory, kept

    def backwards(self, gradients: dict[int, Tensor], kept: list[Any]) -> Tensor | None:
        """The gradient of the image from those of the outputs, by place. Empties `kept` as it goes.

        What is freed at once is still in the processor's cache when the next gradient takes its place.
        """

        def add(place: int, gradient: Tensor) -> None:
            gradients[place] = gradients[place] + gradient if place in gradients else gradient

        for addition, op in reversed(self.steps):
            saved = kept.pop()
            found = [gradients.pop(place, None) if place is not None else None for place in op.out]
            if all(gradient is None for gradient in found):
                continue
            if isinstance(op.call, Convolution):
                assert found[0] is not None
                add(op.args[0].index, op.call.backward(found[0], *saved))
            elif addition:
                assert found[0] is not None
                for ref in op.args:
                    add(ref.index, found[0])
            else:
                for place, gradient in _through(saved, found):
                    add(place, gradient)
        return gradients.get(0)


def _is_addition(op: Op, tape: Tape) -> bool:
    """Whether an operation is the plain sum of two tensors of one shape."""
    shapes = [tape.shapes[place] for place in op.inputs]
    plain = op.call is aten.add.Tensor and len(op.args) == len(shapes) == 2 and not op.kwargs
    return plain and shapes[0] == shapes[1]


def _with_graph(op: Op, memory: dict[int, Tensor]) -> tuple[tuple[Any, ...], Any]:
    """An operation's results, and the graph from its inputs to them."""
    leaves = {place: memory[place].detach() for place in dict.fromkeys(op.inputs)}
    for leaf in leaves.values():
        leaf.requires_grad_(leaf.is_floating_point() or leaf.is_complex())
    with torch.enable_grad():
        found = op.call(*filled(op.args, leaves), **filled(op.kwargs, leaves))
    results = tuple(found) if isinstance(found, (tuple, list)) else (found,)
    plain = tuple(r.detach() if isinstance(r, Tensor) else r for r in results)
    return plain, (leaves, results)


def _through(graph: Any, gradients: list[Tensor | None]) -> list[tuple[int, Tensor]]:
    """The gradients of a graph's inputs, with their places."""
    leaves, results = graph
    pairs = [(r, g) for r, g in zip(results, gradients, strict=True) if g is not None and r.requires_grad]
    places = [place for place, leaf in leaves.items() if leaf.requires_grad]
    if not pairs or not places:
        return []
    found = torch.autograd.grad(
        [r for r, _ in pairs], [leaves[p] for p in places], [g for _, g in pairs], allow_unused=True
    )
    return [(place, gradient) for place, gradient in zip(places, found, strict=True) if gradient is not None]


class _Replay(torch.autograd.Function):
    @staticmethod
    def forward(ctx, image: Tensor, network: Reversible):
        memory, ctx.kept = network.forwards(image)
        ctx.network = network
        return tuple(memory[place] for place in network.tape.outputs)

    @staticmethod
    @once_differentiable
    def backward(ctx, *gradients: Tensor | None):  # pyright: ignore[reportIncompatibleMethodOverride]
        given: dict[int, Tensor] = {}
        for place, gradient in zip(ctx.network.tape.outputs, gradients, strict=True):
            if gradient is not None:
                given[place] = given[place] + gradient if place in given else gradient
        found = ctx.network.backwards(given, ctx.kept)
        del ctx.kept
        return found, None
