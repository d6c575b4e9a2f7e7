"""Objectives as expressions: what they look at, and the algebra that combines them."""

from __future__ import annotations

import contextlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from fvfast import arguments, spelling
from fvfast.errors import FvfastError
from fvfast.layers import Layer


@dataclass(frozen=True, eq=False)
class Picture:
    """A picture that an objective compares with. name: as a target names it; pixels: [C, H, W] in 0..1."""

    name: str
    pixels: Tensor


# From (picture, layer, first image, last image + 1) to activations.
Reference = Callable[[Picture, str, int, int], Tensor]


class Context:
    """What an objective may look at: activations by layer, each [B, C, H, W], and the canvas [B, C, H, W]."""

    def __init__(
        self,
        activations: Mapping[str, Tensor],
        canvas: Callable[[], Tensor] | None = None,
        layers: Mapping[str, Layer] | None = None,
        reference: Reference | None = None,
        first: int = 0,
    ) -> None:
        """reference: what another picture comes to in the place of some of the images; first: which the first is."""
        self._activations = activations
        self.layers = layers or {}
        self._reference, self._first = reference, first
        self._make_canvas = canvas
        self._canvas: Tensor | None = None

    def __getitem__(self, layer: str) -> Tensor:
        """A layer's activations in float32: a mean over half-precision numbers would lose digits."""
        return self._activations[layer].float()

    def raw(self, layer: str) -> Tensor:
        """A layer's activations as the network computed them."""
        return self._activations[layer]

    @property
    def device(self) -> torch.device:
        """Where the activations are, or the canvas if there are none."""
        for activations in self._activations.values():
            return activations.device
        return self.canvas.device

    @property
    def canvas(self) -> Tensor:
        """The image in [0, 1], made only when an objective asks for it."""
        if self._canvas is None:
            if self._make_canvas is None:
                raise ValueError("this objective looks at the image, and no image was given")
            self._canvas = self._make_canvas()
        return self._canvas

    def reference(self, picture: Picture, layer: str) -> Tensor:
        """A layer's activations in float32 for `picture` seen as these images are seen, [B, C, H, W]; constants."""
        if self._reference is None:
            raise ValueError("this objective compares with a picture, and nobody looks at it here")
        count = len(self._activations[layer])
        return self._reference(picture, layer, self._first, self._first + count).float()

    def rows(self, start: int, stop: int) -> Context:
        """The same for some of the images."""
        activations = {name: value[start:stop] for name, value in self._activations.items()}
        first = self._first + start
        return Context(activations, lambda: self.canvas[start:stop], self.layers, self._reference, first)


class Objective(ABC):
    """Something to maximise. `value(context)` is a tensor [B]; objectives are immutable."""

    @abstractmethod
    def value(self, context: Context) -> Tensor:
        """The objective of each image, [B]."""

    @property
    @abstractmethod
    def label(self) -> str:
        """How the objective is written in a caption or a table."""

    @property
    def nested(self) -> str:
        """How it is written inside another objective's label."""
        return self.label

    def __post_init__(self) -> None:
        # What is wrong is said at the render, which knows the network: a list of objectives is no place to fail.
        with contextlib.suppress(FvfastError):
            self.settle()

    def settle(self) -> None:  # noqa: B027 (most terms are made of nothing that needs it)
        """Have what it was made of in the types that are computed with. Raises FvfastError."""

    def settled(self) -> Objective:
        """Itself, if all of its terms are made of what makes sense. Raises FvfastError."""
        for leaf in self.leaves():
            leaf.settle()
        return self

    def leaves(self) -> Iterator[Objective]:
        """The terms that this expression is made of."""
        yield self

    def pictures(self) -> Iterator[Picture]:
        """The pictures that its terms compare with."""
        for leaf in self.leaves():
            if isinstance(leaf, OnLayer) and (picture := leaf.compared) is not None:
                yield picture

    @property
    def layers(self) -> frozenset[str]:
        """The names of the layers that it reads."""
        return frozenset(leaf.layer for leaf in self.leaves() if isinstance(leaf, OnLayer))

    @property
    def start(self) -> Picture | None:
        """The picture that an image starts from unless the user says otherwise; None for noise."""
        return next((leaf.start for leaf in self.leaves() if leaf is not self and leaf.start is not None), None)

    @property
    def coupled(self) -> bool:
        """Whether an image's value depends on the other images of the same objective."""
        return any(leaf.coupled for leaf in self.leaves() if leaf is not self)

    def on(self, device: torch.device) -> Objective:
        """The same with its constants on `device`, so that no step has to bring them there."""
        return self

    def check(self, layers: Mapping[str, Layer], model: str) -> None:
        """Raise FvfastError where a channel or a position does not exist. Layer names are checked before."""
        for leaf in self.leaves():
            if isinstance(leaf, OnLayer):
                leaf.check_in(layers[leaf.layer], model)

    def __add__(self, other: Objective | float) -> Objective:
        return _Binary("+", self, _lift(other))

    def __radd__(self, other: float) -> Objective:
        return self if other == 0 else _Binary("+", _lift(other), self)  # sum() starts from 0

    def __sub__(self, other: Objective | float) -> Objective:
        return _Binary("-", self, _lift(other))

    def __rsub__(self, other: float) -> Objective:
        return _Binary("-", _lift(other), self)

    def __mul__(self, other: Objective | float) -> Objective:
        return _Binary("*", self, _lift(other))

    def __rmul__(self, other: float) -> Objective:
        return _Binary("*", _lift(other), self)

    def __truediv__(self, other: Objective | float) -> Objective:
        return _Binary("/", self, _lift(other))

    def __neg__(self) -> Objective:
        return _Binary("*", _lift(-1.0), self)


class OnLayer(Objective):
    """A term that reads one layer; every subclass has it as its field `layer`."""

    layer: str

    def settle(self) -> None:
        arguments.layer_name(self.layer)

    @property
    def compared(self) -> Picture | None:
        """The picture that it compares with, if any."""
        return None

    def check_in(self, layer: Layer, model: str) -> None:
        """Raise FvfastError where the term does not fit the layer."""


class Written(OnLayer):
    """A term whose target begins with its layer's name, which is quoted where it needs to be."""

    @abstractmethod
    def spelt(self, layer: str) -> str:
        """Its target. layer: the name as a target spells it."""

    @property
    def label(self) -> str:
        return self.spelt(spelling.layer(self.layer))

    @property
    def nested(self) -> str:
        return self.spelt(spelling.layer(self.layer, nested=True))


class NoOperand(FvfastError, TypeError):
    """What an objective does not combine with: a TypeError to Python's arithmetic, bad input to everybody else."""


# Algebra ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Number(Objective):
    number: float

    def value(self, context: Context) -> Tensor:
        return torch.tensor(self.number)

    def leaves(self) -> Iterator[Objective]:
        return iter(())

    @property
    def label(self) -> str:
        return spelling.number(self.number)


_OPERATIONS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "+": torch.add,
    "-": torch.sub,
    "*": torch.mul,
    "/": torch.div,
}


@dataclass(frozen=True)
class _Binary(Objective):
    operation: str
    left: Objective
    right: Objective

    def value(self, context: Context) -> Tensor:
        # A number is a 0-d tensor on the CPU, which torch combines with tensors on any device.
        return _OPERATIONS[self.operation](self.left.value(context), self.right.value(context))

    def on(self, device: torch.device) -> Objective:
        return _Binary(self.operation, self.left.on(device), self.right.on(device))

    def leaves(self) -> Iterator[Objective]:
        yield from self.left.leaves()
        yield from self.right.leaves()

    @property
    def label(self) -> str:
        def inside(part: Objective) -> str:
            # Whatever is more than one term; and a layer called "2", which reads as a number.
            text = part.nested
            plain = isinstance(part, _Number) or not (spelling.compound(text) or spelling.NUMBER.fullmatch(text))
            return text if plain else f"({text})"

        return f"{inside(self.left)} {self.operation} {inside(self.right)}"


def _lift(value: Objective | float) -> Objective:
    if isinstance(value, Objective):
        return value
    if arguments.is_number(value):
        return _Number(arguments.number("what an objective is combined with", value))
    raise NoOperand(f"an objective combines with objectives and numbers, not with {type(value).__name__}")
