"""The gradient of an objective with respect to a picture of any size, one tile at a time.

A network's activations take some hundred times the memory of its input, so a photograph goes through it in tiles, and
memory is bounded by the tile, not by the photograph. What is seen at a seam is cut in two; the seams therefore lie
elsewhere at every step, and no place keeps one.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from fvfast.errors import FvfastError
from fvfast.expressions import Context, Objective
from fvfast.prepare import Fast


def spans(length: int, tile: int) -> list[tuple[int, int]]:
    """(start, stop) of as few equal parts of `length` as are no longer than `tile`."""
    count = -(-length // tile)
    edges = [round(i * length / count) for i in range(count + 1)]
    return list(itertools.pairwise(edges))


class Tiled:
    """Objectives on a picture, summed with weights, and their gradient.

    tap: the network. objectives: of one image each. mean, std: the network's normalisation, [3].
    tile: the longest side that goes through the network at once, in pixels.
    weights: one an objective, 1 to begin with; see `balance`.
    """

    def __init__(
        self, tap: Fast, objectives: Sequence[Objective], mean: Tensor, std: Tensor, dtype: torch.dtype, tile: int
    ) -> None:
        self.tap, self.dtype, self.tile = tap, dtype, tile
        self.objectives = [objective.on(mean.device) for objective in objectives]
        self.mean, self.std = mean[:, None, None], std[:, None, None]
        self.weights = [1.0] * len(self.objectives)
        self.names = sorted({name for objective in self.objectives for name in objective.layers})

    def balance(self, picture: Tensor) -> None:
        """Weigh the objectives so that each pulls equally hard at `picture`: activations differ in scale by layer."""
        if len(self.objectives) == 1:
            return
        scales: list[float] = []
        for i in range(len(self.objectives)):
            self.weights = [float(i == j) for j in range(len(self.objectives))]
            gradient, _ = self.gradient(picture)
            scales.append(float(gradient.abs().mean()))
        self.weights = [1 / scale if scale > 0 else 0.0 for scale in scales]
        # At their sum, so that one objective and several read alike in a progress bar.
        total = sum(self.weights) or 1.0
        self.weights = [weight / total for weight in self.weights]

    def gradient(self, picture: Tensor, shift: tuple[int, int] = (0, 0)) -> tuple[Tensor, float]:
        """The gradient of the objective [3, H, W], and the objective's value.

        picture: [3, H, W] in 0..1. shift: where the first tile begins, (y, x); the picture wraps around, so that
        whole pictures are jittered by it and larger ones have their seams moved.
        """
        result = torch.empty_like(picture)
        total = 0.0
        for rows, columns in self._places(picture, shift):
            part = picture[:, rows][:, :, columns][None].requires_grad_()  # [1, 3, h, w]
            value = self._value(part) * (len(rows) * len(columns) / picture[0].numel())
            if not value.requires_grad:
                raise FvfastError("the objective does not depend on the image: there is nothing to dream of")
            (gradient,) = torch.autograd.grad(value, part)
            result[:, rows[:, None], columns] = gradient[0]
            number = float(value.detach())  # a GPU is waited for once a tile, when all of it is under way
            if not math.isfinite(number):
                raise FvfastError(f"the objective became {number}: try --dtype float32")
            total += number
        return result, total

    @torch.no_grad()
    def value(self, picture: Tensor) -> float:
        """The objective of a picture [3, H, W], unshifted."""
        places = self._places(picture, (0, 0))
        return sum(
            float(self._value(picture[:, rows][:, :, columns][None])) * len(rows) * len(columns) / picture[0].numel()
            for rows, columns in places
        )

    def _value(self, part: Tensor) -> Tensor:
        seen = ((part - self.mean) / self.std).to(self.dtype, memory_format=torch.channels_last)
        context = Context(self.tap(seen, self.names) if self.names else {}, lambda: part, self.tap.layers)
        values = [objective.value(context).float().sum() for objective in self.objectives]
        return sum((w * v for w, v in zip(self.weights, values, strict=True)), torch.zeros((), device=part.device))

    def _places(self, picture: Tensor, shift: tuple[int, int]) -> Iterator[tuple[Tensor, Tensor]]:
        """The rows and the columns of every tile."""
        _, height, width = picture.shape
        for top, bottom in spans(height, self.tile):
            rows = (torch.arange(top, bottom, device=picture.device) + shift[0]) % height
            for left, right in spans(width, self.tile):
                columns = (torch.arange(left, right, device=picture.device) + shift[1]) % width
                yield rows, columns
