"""Objectives that compare with a picture: caricature, inversion and accentuation; and mixtures of objectives.

The picture is seen by the same view as the image in every step, so a jitter moves both.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from fvfast import photographs
from fvfast.errors import FvfastError
from fvfast.expressions import Context, Objective, OnLayer, Picture

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
        power = "" if self.power == 1 else f"{self.power:g}, "
        return f"caricature({self.layer}, {power}{self.picture.name})"


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
        return f"inversion({self.layer}, {self.picture.name})"


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
        return f"nearness({self.layer}, {self.picture.name})"


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
        weight = "" if self.weight == 1 else f"{self.weight:g}, "
        return f"accentuation({self.objective.label}, {self.nearness.layer}, {weight}{self.nearness.picture.name})"


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
        return " + ".join(f"{weight:g} * {part.label}" for weight, part in self.parts)


def picture(source: str | Path | Tensor | Picture) -> Picture:
    """A picture from a file, or from pixels [C, H, W] in 0..1. Raises FvfastError."""
    if isinstance(source, Picture):
        return source
    if not isinstance(source, Tensor):
        return Picture(str(source), photographs.pixels(source))
    if source.dim() != 3 or not source.is_floating_point():
        raise FvfastError(f"a picture must be [C, H, W] in 0..1, not {list(source.shape)} of {source.dtype}")
    return Picture(GIVEN, source.detach().float().cpu().clamp(0, 1))


# The public names ------------------------------------------------------------------------------------------


def caricature(layer: str, image: str | Path | Tensor | Picture, power: float = 1.0) -> Objective:
    """Exaggerate what `layer` sees in `image`: the mean dot product of activations, times max(0.1, cosine)^power."""
    return Caricature(layer, picture(image), power)


def inversion(layer: str, image: str | Path | Tensor | Picture) -> Objective:
    """Match what `layer` sees in `image`: minus the squared distance of activations, relative to the image's own."""
    return Inversion(layer, picture(image))


def accentuation(
    objective: Objective, layer: str, image: str | Path | Tensor | Picture, weight: float = 1.0
) -> Objective:
    """Start from `image` and raise `objective`, while `layer` stays near to what it sees in the image."""
    return Accentuation(objective, Nearness(layer, picture(image)), weight)


def mixture(*parts: tuple[float, Objective]) -> Objective:
    """A weighted sum: mixture((0.75, a), (0.25, b)) is 0.75 a + 0.25 b, and its label can be read as a target."""
    return Mixture(parts)


def interpolated(first: Objective, last: Objective, count: int) -> list[Objective]:
    """`count` objectives on a straight line from one to another; the ends are the two themselves."""
    if count < 2:
        raise FvfastError(f"an interpolation has 2 images or more, not {count}")
    # Four digits, so that a label says the weights in full.
    inner = [round(i / (count - 1), 4) for i in range(1, count - 1)]
    return [first, *(mixture((round(1 - t, 4), first), (t, last)) for t in inner), last]
