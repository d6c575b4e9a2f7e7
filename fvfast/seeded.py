"""Objectives that compare with a picture: caricature, inversion and accentuation; and mixtures of objectives.

The picture is seen by the same view as the image in every step, so a jitter moves both.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import Tensor

from fvfast import arguments, photographs, spelling
from fvfast.errors import FvfastError
from fvfast.expressions import Context, Objective, OnLayer, Picture
from fvfast.photographs import Source

GIVEN = "given"  # the name of a picture that was handed over in Python
FLOOR = 0.1  # of a cosine, so that there is a gradient where it is not yet positive


class Comparison(OnLayer):
    """A term that compares a layer's activations with those of a picture; every subclass has it as `picture`."""

    picture: Picture

    @property
    def compared(self) -> Picture:
        return self.picture


@dataclass(frozen=True, eq=False)
class Caricature(Comparison):
    """Mean over positions of dot(activation, picture's) * max(0.1, cosine)^power, over the picture's mean square.

    1 is the picture itself; above 1 what the layer sees in it is exaggerated. lucid's `dot_compare`, normalised.
    """

    layer: str
    picture: Picture = field(repr=False)
    power: float = 1.0

    def value(self, context: Context) -> Tensor:
        maps, wanted = context[self.layer], context.reference(self.picture, self.layer)  # [B, C, H, W]
        dot = (maps * wanted).sum(1)  # [B, H, W]
        cosine = F.cosine_similarity(maps, wanted, dim=1).clamp(min=FLOOR)
        size = wanted.square().sum(1).mean((-2, -1)).clamp(min=1e-12)
        return (dot * cosine**self.power).mean((-2, -1)) / size

    @property
    def label(self) -> str:
        power = "" if self.power == 1 else f"{spelling.number(self.power)}, "
        return f"caricature({_place(self, power)})"


@dataclass(frozen=True, eq=False)
class Inversion(Comparison):
    """Minus |activations - picture's|^2 / |picture's|^2: 0 for an image that the layer cannot tell from the picture.

    Mahendran and Vedaldi, "Understanding deep image representations by inverting them" (2015).
    """

    layer: str
    picture: Picture = field(repr=False)

    def value(self, context: Context) -> Tensor:
        maps, wanted = context[self.layer].flatten(1), context.reference(self.picture, self.layer).flatten(1)
        return -(maps - wanted).square().sum(1) / wanted.square().sum(1).clamp(min=1e-12)

    @property
    def label(self) -> str:
        return f"inversion({_place(self)})"


@dataclass(frozen=True, eq=False)
class Nearness(Comparison):
    """Minus |activations - picture's| / |picture's| in a layer."""

    layer: str
    picture: Picture = field(repr=False)

    def value(self, context: Context) -> Tensor:
        maps, wanted = context[self.layer].flatten(1), context.reference(self.picture, self.layer).flatten(1)
        # The root has no slope at 0, where an accentuation starts.
        square = (maps - wanted).square().sum(1) / wanted.square().sum(1).clamp(min=1e-12)
        return -(square + 1e-8).sqrt()

    @property
    def label(self) -> str:
        return f"nearness({_place(self)})"


@dataclass(frozen=True, eq=False)
class Accentuation(Objective):
    """An objective, less `weight` times its own size for each of the picture's lengths that a layer moves away from it.

    value - weight * |value| * |activations - picture's| / |picture's|, |value| held fixed. Images start from it.
    After Hamblin et al., "Feature accentuation: revealing 'what' features respond to in natural images" (2024), whose
    regulariser is the distance itself.
    """

    objective: Objective
    nearness: Nearness
    weight: float = 1.0

    def value(self, context: Context) -> Tensor:
        value = self.objective.value(context)
        return value + self.weight * value.detach().abs() * self.nearness.value(context)

    def leaves(self) -> Iterator[Objective]:
        yield from self.objective.leaves()
        yield self.nearness

    def on(self, device: torch.device) -> Objective:
        return Accentuation(self.objective.on(device), self.nearness, self.weight)

    @property
    def start(self) -> Picture:
        return self.nearness.picture

    @property
    def label(self) -> str:
        weight = "" if self.weight == 1 else f"{spelling.number(self.weight)}, "
        inside = self.objective.nested
        if len(spelling.cut(inside, ",")) > 1:  # a position's, which would end the first of the three
            inside = f"({inside})"
        return f"accentuation({inside}, {_place(self.nearness, weight)})"


@dataclass(frozen=True, eq=False)
class Mixture(Objective):
    """A weighted sum of objectives."""

    parts: tuple[tuple[float, Objective], ...]

    def value(self, context: Context) -> Tensor:
        weighted = [weight * part.value(context) for weight, part in self.parts]
        return torch.stack(torch.broadcast_tensors(*weighted)).sum(0)

    def leaves(self) -> Iterator[Objective]:
        for _, part in self.parts:
            yield from part.leaves()

    def on(self, device: torch.device) -> Objective:
        return Mixture(tuple((weight, part.on(device)) for weight, part in self.parts))

    @property
    def label(self) -> str:
        def inside(part: Objective) -> str:
            # A product with a number may follow one: 0.5 * 2 * a is the same either way.
            text = part.nested
            return f"({text})" if any(len(spelling.cut(text, sign)) > 1 for sign in (" + ", " - ", " / ")) else text

        return " + ".join(f"{spelling.number(weight)} * {inside(part)}" for weight, part in self.parts)


def _place(term: Comparison, number: str = "") -> str:
    """Layer and picture of a term as its target spells them. number: a power or weight before the picture, ", "
    included."""
    powered = not isinstance(term, Inversion)
    return f"{spelling.layer(term.layer, nested=True)}, {number}{spelling.file(term.picture.name, powered)}"


def picture(source: Source | Picture) -> Picture:
    """A picture to compare with, named by its file if it has one; see `photographs.take`. Raises FvfastError."""
    if isinstance(source, Picture):
        return source
    name = os.fspath(source) if isinstance(source, str | os.PathLike) else GIVEN
    return Picture(name, photographs.planes_of(source))


# The public names; `image` is whatever `photographs.take` takes ----------------------------------------------


def caricature(layer: str, image: Source | Picture, power: float = 1.0) -> Objective:
    """Exaggerate what `layer` sees in `image`: the mean dot product of activations, times max(0.1, cosine)^power."""
    power = arguments.number("power", power, least=0.0, most=arguments.STEEPEST)
    return Caricature(arguments.layer_name(layer), picture(image), power)


def inversion(layer: str, image: Source | Picture) -> Objective:
    """Match what `layer` sees in `image`: minus the squared distance of activations, relative to the image's own."""
    return Inversion(arguments.layer_name(layer), picture(image))


def accentuation(objective: Objective, layer: str, image: Source | Picture, weight: float = 1.0) -> Objective:
    """Start from `image` and raise `objective`, while `layer` stays near to what it sees in the image."""
    _check_objective(objective)
    weight = arguments.number("weight", weight)
    return Accentuation(objective, Nearness(arguments.layer_name(layer), picture(image)), weight)


def mixture(*parts: tuple[float, Objective]) -> Objective:
    """A weighted sum: mixture((0.75, a), (0.25, b)) is 0.75 a + 0.25 b, and its label can be read as a target."""
    for part in parts:
        if not isinstance(part, tuple) or len(part) != 2:
            raise FvfastError(f"a mixture is of pairs (weight, objective), not of {arguments.shown(part)}")
        _check_objective(part[1])
    if not parts:
        raise FvfastError("a mixture has one pair (weight, objective) or more")
    return Mixture(tuple((arguments.number("a weight", weight), part) for weight, part in parts))


def _check_objective(objective: object) -> None:
    if not isinstance(objective, Objective):
        raise FvfastError(
            f"an objective is made by fvfast.objectives, such as channel(...), not {arguments.shown(objective)}"
        )


def interpolated(first: Objective, last: Objective, count: int) -> list[Objective]:
    """`count` objectives on a straight line from one to another; the ends are the two themselves."""
    if count < 2:
        raise FvfastError(f"an interpolation has 2 images or more, not {count}")
    # Four digits, so that a label says the weights in full.
    inner = [round(i / (count - 1), 4) for i in range(1, count - 1)]
    return [first, *(mixture((round(1 - t, 4), first), (t, last)) for t in inner), last]
