"""`lucent.optvis.objectives`: what to make small.

As in lucent an objective is a *loss*, called with a function T that gives a layer's output by name; it is what
optimisers minimise. So `channel` is minus a mean activation, and `a + b`, `2 * a`, `-a` mean what they say of losses.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence
from numbers import Real
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from fvfast.errors import FvfastError

T = Callable[[str], Tensor]
Function = Callable[[T], Any]


class Objective:
    """A loss with a name and a description, that adds to others and scales by numbers."""

    def __init__(self, objective_func: Function, name: str = "", description: str = "") -> None:
        self.objective_func, self.name, self.description = objective_func, name, description

    def __call__(self, model: T) -> Any:
        return self.objective_func(model)

    def __add__(self, other: Objective | float) -> Objective:
        if isinstance(other, Objective):
            return Objective.sum([self, other])
        return Objective(lambda model: other + self(model), self.name, self.description)

    def __radd__(self, other: float) -> Objective:
        return self + other

    def __neg__(self) -> Objective:
        return -1 * self

    def __sub__(self, other: Objective | float) -> Objective:
        return self + -1 * other

    def __mul__(self, other: float) -> Objective:
        _check_number(other, "multiply")
        return Objective(lambda model: other * self(model), self.name, self.description)

    def __rmul__(self, other: float) -> Objective:
        return self * other

    def __truediv__(self, other: float) -> Objective:
        _check_number(other, "divide")
        return self * (1 / other)

    @staticmethod
    def sum(objs: Sequence[Objective]) -> Objective:
        """The sum of objectives."""
        description = "Sum(" + " +\n".join(one.description for one in objs) + ")"
        return Objective(lambda model: sum(one(model) for one in objs), ", ".join(o.name for o in objs), description)


def _check_number(value: object, verb: str) -> None:
    if not isinstance(value, Real):
        raise TypeError(f"Can only {verb} by int or float. Received type {type(value)}")


def wrap_objective() -> Callable[[Callable[..., Function]], Callable[..., Objective]]:
    """Decorates a function that gives a loss `f(T)`, so that it gives an `Objective`."""

    def decorate(function: Callable[..., Function]) -> Callable[..., Objective]:
        @functools.wraps(function)
        def made(*args: Any, **options: Any) -> Objective:
            name = function.__name__
            words = [make_arg_str(value) for value in (*args, *options.values())]
            return Objective(function(*args, **options), name, f"{name.title()} [{', '.join(words)}]")

        return made

    return decorate


def handle_batch(batch: int | None = None) -> Callable[[Function], Function]:
    """Decorates a loss, so that it sees the one image `batch` of every layer; all where it is None."""

    def decorate(function: Function) -> Function:
        return function if batch is None else lambda model: function(of_one(model, batch))

    return decorate


def as_objective(obj: str | Objective | Function) -> Objective | Function:
    """`"layer:n"` as `channel(layer, n)`; whatever can be called as it is. Raises FvfastError for anything else."""
    if callable(obj):
        return obj
    if isinstance(obj, str):
        layer, colon, number = obj.rpartition(":")
        if colon and layer.strip() and number.strip().isdecimal():
            return channel(layer.strip(), int(number))
    raise FvfastError(f"{obj!r} is no objective: write 'layer:channel', or take one from objectives")


# Terms on a layer ------------------------------------------------------------------------------------------


@wrap_objective()
def channel(layer: str, n_channel: int, batch: int | None = None) -> Function:
    """Mean activation of a channel."""

    @handle_batch(batch)
    def loss(model: T) -> Tensor:
        return -_channel(model(layer), layer, n_channel).mean()

    return loss


@wrap_objective()
def neuron(layer: str, n_channel: int, x: int | None = None, y: int | None = None, batch: int | None = None):
    """A channel at column x and row y; by default in the middle, below and right of it where the size is even."""

    @handle_batch(batch)
    def loss(model: T) -> Tensor:
        return -_channel(_position(model(layer), layer, x, y), layer, n_channel).mean()

    return loss


@wrap_objective()
def channel_weight(layer: str, weight: Tensor, batch: int | None = None) -> Function:
    """Mean of all channels times their weights [C]."""
    along = _Along(weight, layer)

    @handle_batch(batch)
    def loss(model: T) -> Tensor:
        maps = model(layer)
        return -(maps * along(maps)).mean()

    return loss


@wrap_objective()
def neuron_weight(
    layer: str, weight: Tensor | None, x: int | None = None, y: int | None = None, batch: int | None = None
) -> Function:
    """Mean of all channels at one position, times their weights [C] if there are any."""
    along = None if weight is None else _Along(weight, layer)

    @handle_batch(batch)
    def loss(model: T) -> Tensor:
        maps = _position(model(layer), layer, x, y)
        return -(maps if along is None else maps * along(maps)).mean()

    return loss


@wrap_objective()
def localgroup_weight(
    layer: str,
    weight: Tensor | None = None,
    x: int | None = None,
    y: int | None = None,
    wx: int = 1,
    wy: int = 1,
    batch: int | None = None,
) -> Function:
    """Mean of all channels over wx columns from x and wy rows from y, times their weights [C] if there are any."""
    along = None if weight is None else _Along(weight, layer)

    @handle_batch(batch)
    def loss(model: T) -> Tensor:
        maps = _position(model(layer), layer, x, y, wx, wy)
        return -(maps if along is None else maps * along(maps)).mean()

    return loss


@wrap_objective()
def direction(layer: str, direction: Tensor, batch: int | None = None) -> Function:
    """Mean cosine of the activations with a vector [C]."""
    along = _Along(direction, layer)

    @handle_batch(batch)
    def loss(model: T) -> Tensor:
        maps = model(layer)
        return -F.cosine_similarity(along(maps), maps, dim=1).mean()

    return loss


@wrap_objective()
def direction_neuron(
    layer: str, direction: Tensor, x: int | None = None, y: int | None = None, batch: int | None = None
) -> Function:
    """Cosine of the activation at column x and row y with a vector [C]; by default in the middle."""
    along = _Along(direction, layer)

    @handle_batch(batch)
    def loss(model: T) -> Tensor:
        maps = _position(model(layer), layer, x, y)
        return -F.cosine_similarity(along(maps), maps, dim=1).mean()

    return loss


@wrap_objective()
def deepdream(layer: str, batch: int | None = None) -> Function:
    """Mean square of a layer: lucid's objective, which lucent 0.1.8 leaves out."""

    @handle_batch(batch)
    def loss(model: T) -> Tensor:
        return -model(layer).square().mean()

    return loss


# Terms on a batch, and on the image ------------------------------------------------------------------------


@wrap_objective()
def channel_interpolate(layer1: str, n_channel1: int, layer2: str, n_channel2: int) -> Function:
    """From the first channel to the second along the batch: the sum over images of their shares of both."""

    def loss(model: T) -> Tensor:
        first = _channel(model(layer1), layer1, n_channel1).flatten(1).mean(1)  # [B]
        second = _channel(model(layer2), layer2, n_channel2).flatten(1).mean(1)
        if len(first) < 2:
            raise FvfastError("channel_interpolate goes along a batch: param.image(..., batch=2) or more")
        share = torch.linspace(0, 1, len(first), device=first.device)
        return -((1 - share) * first + share * second).sum()

    return loss


@wrap_objective()
def alignment(layer: str, decay_ratio: float = 2) -> Function:
    """Mean square distance, at a layer, of images up to four places apart in the batch, less the farther apart."""

    def loss(model: T) -> Tensor:
        maps = model(layer)
        total = maps.new_zeros(())
        for apart in range(1, min(5, len(maps))):
            squares = (maps[:-apart] - maps[apart:]).square().flatten(1).mean(1)
            total = total + squares.sum() / decay_ratio**apart
        return total

    return loss


@wrap_objective()
def diversity(layer: str) -> Function:
    """Minus how alike the images are: cosines of their Gram matrices at a layer, summed over pairs, for each image.

    Subtracted from an objective, times some weight, it drives the images of a batch apart.
    """

    def loss(model: T) -> Tensor:
        maps = model(layer).flatten(2)  # [B, C, P]
        grams = F.normalize((maps @ maps.transpose(1, 2)).flatten(1), dim=1)
        cosines = grams @ grams.T
        return -(cosines.sum() - cosines.diagonal().sum()) / len(maps)

    return loss


@wrap_objective()
def blur_input_each_step() -> Function:
    """Minus half the square distance between the image and its blur (3x3, the middle twice as heavy).

    Adding (-k) times this blurs the image a little at each step (Nguyen et al. 2015).
    """

    def loss(model: T) -> Tensor:
        image = model("input")
        with torch.no_grad():
            kernel = image.new_full((image.shape[1], 1, 3, 3), 0.5)
            kernel[:, :, 1, 1] = 1.0
            sums = F.conv2d(image, kernel, padding=1, groups=len(kernel))
            blurred = sums / F.conv2d(torch.ones_like(image), kernel, padding=1, groups=len(kernel))
        return -0.5 * (image - blurred).square().sum()

    return loss


# Pieces ----------------------------------------------------------------------------------------------------


def make_arg_str(arg: object) -> str:
    """An argument as a description shows it: `...` where it is long."""
    word = str(arg)
    return "..." if len(word) > 15 or "\n" in word else word


def of_one(model: T, batch: int | None = None) -> T:
    """T of the one image `batch`, still with its axis; of all where it is None."""
    return model if batch is None else lambda name: model(name)[batch : batch + 1]


def extract_act_pos(acts: Tensor, x: int | None = None, y: int | None = None) -> Tensor:
    """Maps [B, C, H, W] at column x and row y, [B, C, 1, 1]; by default in the middle."""
    return _position(acts, "the layer", x, y)


def _channel(maps: Tensor, layer: str, number: int) -> Tensor:
    if not -maps.shape[1] <= number < maps.shape[1]:
        raise FvfastError(f"{layer} has channels 0-{maps.shape[1] - 1}, not {number}")
    return maps[:, number]


def _position(maps: Tensor, layer: str, x: int | None, y: int | None, wx: int = 1, wy: int = 1) -> Tensor:
    """wy rows from y and wx columns from x of maps [B, C, H, W]; from the middle by default."""
    if maps.dim() != 4:
        raise FvfastError(f"{layer} has no grid of positions: use objectives.channel")
    height, width = maps.shape[2:]
    x = width // 2 if x is None else x
    y = height // 2 if y is None else y
    if not (0 <= x < width and 0 <= y < height):
        raise FvfastError(f"x={x}, y={y} lies outside {layer}, which has {height} rows and {width} columns")
    return maps[:, :, y : y + wy, x : x + wx]


class _Along:
    """A vector [C], laid along the channels of maps [B, C, ...]."""

    def __init__(self, values: Tensor, layer: str) -> None:
        self.values, self.layer = torch.as_tensor(values), layer

    def __call__(self, maps: Tensor) -> Tensor:
        if math.prod(self.values.shape) != maps.shape[1]:
            shape = tuple(self.values.shape)
            raise FvfastError(f"{self.layer} has {maps.shape[1]} channels; the vector has shape {shape}")
        # Kept where it was brought: a copy from the host cannot be part of a CUDA graph.
        self.values = self.values.to(maps)
        return self.values.reshape(1, -1, *[1] * (maps.dim() - 2))
