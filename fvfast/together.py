"""The objectives of a batch as one function, whose channels, positions and directions are numbers on the device.

So a CUDA graph that was captured for one batch serves the next, which looks for other channels of the same layers.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from fvfast.expressions import Context, Objective
from fvfast.layers import Layer
from fvfast.objectives import Channel, Direction, Neuron

Index = tuple[Tensor, ...]  # rows and channels, and for positions y and x: one number an image each


class Together:
    """One function for a batch whose images have different objectives; calling it gives a tensor [B].

    Plain channels, the common case, and single positions are read with one gather a layer; the others each look at
    their own images.
    """

    def __init__(self, objectives: Sequence[tuple[Objective, int]]) -> None:
        """objectives: (objective, number of images) in the order of the batch."""
        self._parts = _Parts(objectives)
        # On the activations' device from the first call on: a copy from the host cannot be part of a CUDA graph.
        self._places: Tensor | None = None
        self._indices: dict[tuple[type, str], Index] = {}
        self._grids: dict[str, tuple[Layer | None, torch.Size]] = {}

    def __call__(self, context: Context) -> Tensor:
        if self._places is None or self._places.device != context.device:
            self._bring(context)
            assert self._places is not None
        values: list[Tensor] = []
        for (kind, layer), index in self._indices.items():
            found = read(context.raw(layer), index).float()
            values.append(found.mean((-2, -1)) if kind is Channel else found)
        for objective, start, stop in self._parts.others:
            values.append(objective.value(context.rows(start, stop)).expand(stop - start))
        return torch.cat(values)[self._places]  # [B]

    def take_over(self, objectives: Sequence[tuple[Objective, int]]) -> bool:
        """Mean other objectives of the same kinds from now on, in place; False, unchanged, where they are not alike."""
        theirs = _Parts(objectives)
        if self._places is None or not self._parts.alike(theirs):
            return False
        # In the order of the gathers that are there.
        theirs.gathers = {key: theirs.gathers[key] for key in self._parts.gathers}
        self._places.copy_(theirs.places())
        for key, index in self._indices.items():
            for mine, fresh in zip(index, theirs.index(key, self._grids), strict=True):
                mine.copy_(fresh)
        for (mine, _, _), (other, _, _) in zip(self._parts.others, theirs.others, strict=True):
            if isinstance(mine, Direction) and isinstance(other, Direction):
                mine.vector.copy_(other.vector)
        theirs.others = self._parts.others
        self._parts = theirs
        return True

    def _bring(self, context: Context) -> None:
        device, gathers = context.device, self._parts.gathers
        self._grids = {name: (context.layers.get(name), context.raw(name).shape[-2:]) for _, name in gathers}
        self._places = self._parts.places().to(device)
        self._indices = {
            key: tuple(numbers.to(device) for numbers in self._parts.index(key, self._grids)) for key in gathers
        }


class _Parts:
    """The objectives of a batch by how they are read.

    gathers: by kind and layer, (row, objective); others: (objective, first row, last row + 1).
    """

    def __init__(self, objectives: Sequence[tuple[Objective, int]]) -> None:
        self.gathers: dict[tuple[type, str], list[tuple[int, Channel | Neuron]]] = {}
        self.others: list[tuple[Objective, int, int]] = []
        start = 0
        for objective, count in objectives:
            if isinstance(objective, (Channel, Neuron)):
                rows = self.gathers.setdefault((type(objective), objective.layer), [])
                rows.extend((start + i, objective) for i in range(count))
            else:
                self.others.append((objective, start, start + count))
            start += count

    def places(self) -> Tensor:
        """Where each image's value stands among those that are read, [B]."""
        order = [row for rows in self.gathers.values() for row, _ in rows]
        order += [row for _, start, stop in self.others for row in range(start, stop)]
        return torch.tensor(order).argsort()

    def index(self, key: tuple[type, str], grids: dict[str, tuple[Layer | None, torch.Size]]) -> Index:
        """What a gather reads of a layer's activations."""
        numbers: list[tuple[int, ...]] = []
        for row, objective in self.gathers[key]:
            place = objective.place(*grids[key[1]]) if isinstance(objective, Neuron) else ()
            numbers.append((row, objective.channel, *place))
        return tuple(torch.tensor(numbers).T.contiguous())

    def alike(self, other: _Parts) -> bool:
        """Whether another batch's objectives differ from these in channels, positions and directions only."""
        counts, theirs = ({key: len(rows) for key, rows in parts.gathers.items()} for parts in (self, other))
        return counts == theirs and len(self.others) == len(other.others) and all(map(_same, self.others, other.others))


def _same(one: tuple[Objective, int, int], other: tuple[Objective, int, int]) -> bool:
    (mine, *rows), (theirs, *others) = one, other
    if isinstance(mine, Direction) and isinstance(theirs, Direction):
        same = mine.layer == theirs.layer and mine.power == theirs.power and mine.vector.shape == theirs.vector.shape
    else:
        same = mine is theirs or bool(mine == theirs)
    return same and rows == others


def read(activations: Tensor, index: Index) -> Tensor:
    """What an index picks out of activations [B, C, H, W]; no place may be in it twice.

    On a GPU the gradient has the activations' own layout and is written without sorting the index first, as PyTorch
    does to be safe against places that come twice. A CPU keeps PyTorch's, and with it the last bits of its sums.
    """
    return _Read.apply(activations, *index) if activations.is_cuda else activations[index]  # pyright: ignore


class _Read(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, activations: Tensor, *index: Tensor) -> Tensor:
        ctx.save_for_backward(activations, *index)
        return activations[index]

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        activations, *index = ctx.saved_tensors
        found = torch.zeros_like(activations)
        found[tuple(index)] = gradients[0]
        return found, *[None] * len(index)
