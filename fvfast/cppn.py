"""The image as a small network from coordinates to colours: a CPPN, as smooth as its function and of any resolution.

After Mordvintsev et al., "Differentiable image parameterizations" (2018), and Stanley, "Compositional pattern producing
networks" (2007).
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Generator, Tensor

from fvfast.images import Frame, Image, mixing, ready
from fvfast.recipes import Recipe
from fvfast.views import identity, matrices

WIDTH, DEPTH = 24, 8  # units of a hidden layer, and hidden layers, as in lucid's `cppn`

# Of atan(z) for a standard normal z: its root mean square, and the mean and standard deviation of its square. The
# activations are brought to mean 0 and size 1 by them, as in lucid's `_composite_activation_unbiased`.
ATAN, MEAN, DEVIATION = 0.67, 0.45, 0.396
FIRST, HIDDEN = 2.0, 1.2  # sizes of the first weights; chosen by eye, among pictures of random networks


def shapes(channels: int = 3) -> list[tuple[int, int]]:
    """(outputs, inputs) of every layer, each with a bias besides; two activations a unit. channels: the image's."""
    widths = [2, *[2 * WIDTH] * DEPTH]
    return [(WIDTH if i < DEPTH else channels, width) for i, width in enumerate(widths)]


class Cppn(Image):
    """The image as what a network makes of every pixel's coordinates. parameter: its weights and biases, [B, N].

    Coordinates have a standard deviation of 1 over the canvas. A hidden layer is followed by atan(z) and its square,
    scaled to unit size, side by side; the last by the colours and a sigmoid. Views are evaluated at their own
    coordinates, exactly; beyond the canvas's edge the function goes on.
    """

    def __init__(self, recipes: Sequence[Recipe], noise: Tensor, frame: Frame) -> None:
        self.frame, self.views, self.gain = frame, recipes[0].views, recipes[0].gain
        self.colour = mixing(recipes[0].decorrelate, frame.inputs, frame.device)
        scales = torch.stack([scale(r.sd, frame.inputs) for r in recipes])  # [B, N]
        self.parameter = (noise * scales).to(frame.device).requires_grad_()
        self._still = matrices(identity(len(noise))).to(frame.device)
        self._grids = {side: grid(side).to(frame.device) for side in {frame.size, frame.view}}  # [2, side^2]

    @staticmethod
    def noise(size: int, generator: Generator, channels: int = 3) -> Tensor:
        """One network's weights and biases before they are scaled, standard normal, [N]."""
        return torch.randn(sum(out * (into + 1) for out, into in shapes(channels)), generator=generator)

    def canvas(self) -> Tensor:
        return self._paint(self._still, self.frame.size)

    def view(self, views: Tensor) -> Tensor:
        frame = self.frame
        image = self._paint(matrices(views[:, :6]), frame.view)
        return ready((image - frame.mean[:, None, None]) / frame.std[:, None, None], frame)

    def _paint(self, maps: Tensor, side: int) -> Tensor:
        """The image at the pixels of a view, [B, C, side, side]. maps: [B, 2, 3], see `views.matrices`."""
        pixels = torch.baddbmm(maps[:, :, 2:], maps[:, :, :2], self._grids[side].expand(len(maps), -1, -1))
        (weight, bias), *rest = self._layers()
        # Uniform coordinates with a variance of 1 on the canvas.
        values = torch.baddbmm(bias, weight, pixels * (2 * math.sqrt(3) / self.frame.size))  # [B, WIDTH, P]
        for weight, bias in rest:
            curved = values.atan()
            first, second = weight.chunk(2, 2)
            values = torch.baddbmm(bias, first, curved / ATAN)
            values = torch.baddbmm(values, second, (curved.square() - MEAN) / DEVIATION)
        return torch.sigmoid(self.gain * (self.colour @ values)).unflatten(2, (side, side))

    def _layers(self) -> list[tuple[Tensor, Tensor]]:
        """(weight [B, out, in], bias [B, out, 1]) of every layer."""
        layers = shapes(self.frame.inputs)
        parts = self.parameter.split([count for out, into in layers for count in (out * into, out)], 1)
        pairs = zip(parts[::2], parts[1::2], layers, strict=True)
        return [(weight.view(-1, *shape), bias[..., None]) for weight, bias, shape in pairs]


def scale(sd: float, channels: int = 3) -> Tensor:
    """What standard normal numbers are multiplied by to be a network's first weights, [N].

    The first layer's weights and biases alike have a size of `FIRST`: its units bend at places all over the canvas, in
    every direction. HIDDEN / sqrt(inputs) then keeps a layer's output at that size; the last layer's weights begin at
    `sd` over that root.
    """
    parts: list[Tensor] = []
    for layer, (out, into) in enumerate(shapes(channels)):
        size = FIRST if layer == 0 else (sd if layer == DEPTH else HIDDEN) / math.sqrt(into)
        parts += [torch.full((out * into,), size), torch.full((out,), FIRST if layer == 0 else 0.0)]
    return torch.cat(parts)


def grid(side: int) -> Tensor:
    """The pixels' places from the image's centre, (y, x), [2, side^2]."""
    axis = torch.arange(side, dtype=torch.float32) - (side - 1) / 2
    return torch.stack(torch.meshgrid(axis, axis, indexing="ij")).flatten(1)
