"""A model on its device: its layers at the size of the views, what its images can be, and how they are judged."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from fvfast import generators, layers, models, photographs, targets, tracing
from fvfast.asked import Target, chosen
from fvfast.copies import duplicate
from fvfast.cppn import Cppn
from fvfast.errors import FvfastError
from fvfast.expressions import Context, Objective, Picture
from fvfast.generators import PREFIX, Generator
from fvfast.habits import seeded
from fvfast.identity import tensor_digest
from fvfast.images import Fourier, Kind, Pixel
from fvfast.layers import Tap
from fvfast.models import Model
from fvfast.phase import Phase
from fvfast.photographs import square
from fvfast.pristine import pristine
from fvfast.pyramid import Pyramid
from fvfast.recipes import Recipe
from fvfast.recordings import Recordings
from fvfast.seeded import GIVEN

PARAMETERISATIONS: dict[str, Kind] = {
    "fourier": Fourier,
    "pixel": Pixel,
    "phase": Phase,
    "pyramid": Pyramid,
    "cppn": Cppn,
}


class Job:
    """A model on its device, with its layers at the size of the views."""

    def __init__(
        self,
        model: Model,
        device: torch.device,
        dtype: torch.dtype,
        size: int,
        view: int | None,
        firm: bool = True,
    ) -> None:
        """size: of the canvas; view: of what the network sees, by default the canvas's or the network's only size.

        firm: whether the user has asked for that canvas; otherwise it is as large as what the network sees.
        """
        self.model, self.device, self.dtype, self.size = model, device, dtype, size
        self.module = pristine(model.module, device, model.inputs)
        self.view, self.layers = tracing.input_size(
            self.module, view or size, model.size, model.name, model.channels, model.layouts
        )
        if not firm and view is None:
            self.size = self.view
        self.brought = self.view != (view or self.size)  # to a size that nobody has asked for
        self.generators: dict[str, Generator] = {}
        self.pictures: dict[str, Tensor] = {}
        self.recordings = Recordings()  # what a render on a GPU leaves for the next, if it is meant to

    def kind(self, image: str) -> Kind:
        """The parameterisation that a recipe's `image` names."""
        if not image.startswith(PREFIX):
            return PARAMETERISATIONS[image]
        self.model.need_colours(f"--image {image}")
        if image not in self.generators:
            self.bring(image, generators.find(image.removeprefix(PREFIX)))
        return self.generators[image]

    def bring(self, image: str, generator: Generator) -> None:
        """Have `image` mean a generator."""
        self.generators[image] = generator.on(self.device)

    def picture(self, start: str) -> Tensor:
        """The picture that a recipe's `start` names, on a square canvas, [C, H, W]."""
        if start not in self.pictures:
            if start == GIVEN:
                raise FvfastError("this image started from one that was given in Python: pass it again as start=...")
            self.pictures[start] = self.fitted(photographs.planes_of(start))
        return self.pictures[start]

    def tap(self, names: Sequence[str]) -> Tap:
        """The unmodified network as new, in float32, for these layers.

        Passes of networks with code of their own run to their end: who knows what that code does there.
        """
        habits = self.layers.habits
        copy = duplicate(self.module, own_weights=habits.rewrites)
        return Tap(copy, self.layers, names, whole=habits.foreign or habits.reads, channels=self.model.channels)

    def notes(self) -> list[str]:
        """What a person should know of the network: sentences."""
        habits, name, found = self.layers.habits, self.model.name, []
        if self.brought:
            found.append(f"{name} sees images of {self.view} px: the canvas of {self.size} px is brought to that size")
        if habits.draws:
            found.append(f"{name} draws random numbers as it runs: it sees the same picture differently every time")
        if habits.remembers:
            found.append(
                f"{name} remembers earlier passes: every image begins with the network as it was given, and its "
                "objective is that of a first look"
            )
            if habits.outside:
                found.append(
                    f"{name} keeps something outside of itself ({habits.outside}): an image may depend on those "
                    "rendered before it"
                )
        return found

    def fitted(self, picture: Tensor) -> Tensor:
        """A picture [c, h, w] with the network's channels and the canvas's size, [C, H, W]. Raises FvfastError."""
        return square(photographs.with_channels(picture, self.model.channels), self.size)

    def handed(self, recipe: Recipe) -> dict[str, str]:
        """Digests of what determines a render and is only named by its recipe, by what that is: for its key.

        A generator has weights of its own; a picture to start from may have been handed over in Python.
        """
        found: dict[str, str] = {}
        if recipe.image.startswith(PREFIX):
            self.kind(recipe.image)
            found["generator"] = self.generators[recipe.image].digest
        if recipe.start == GIVEN:
            found["start"] = tensor_digest(self.picture(GIVEN))
        return found

    def objectives(self, target: Target | Sequence[Target] | None) -> list[Objective]:
        if target is None:
            if self.model.name != models.DEFAULT_MODEL:
                raise FvfastError(f"name at least one target; `fvfast layers {self.model.name}` lists the layers")
            target = targets.SHOWCASE
        found: list[Objective] = []
        for one in chosen(target, self.model.module):
            if isinstance(one, str):
                found.extend(targets.parse(one, self.layers, self.model))
                continue
            for name in sorted(one.settled().layers):
                layers.find(self.layers, name, self.model.name)
            one.check(self.layers, self.model.name)
            found.append(one)
        return found

    @torch.no_grad()
    def evaluate(self, tap: Tap, objective: Objective, canvas: Tensor, view: int) -> Tensor:
        """The objective of a canvas [B, C, H, W] as the unmodified network sees it, in float32, [B]."""
        mean, std = (torch.tensor(v, device=canvas.device)[:, None, None] for v in (self.model.mean, self.model.std))
        if self.layers.habits.remembers or self.layers.habits.foreign:  # nothing of what others have left behind
            tap = self.tap(sorted(objective.layers))

        def look(pictures: Tensor, names: Sequence[str]) -> dict[str, Tensor]:
            seen = (pictures - mean) / std
            if view != self.size:
                seen = F.interpolate(seen, size=(view, view), mode="bilinear", align_corners=False)
            with seeded(0):
                return tap(seen, names)

        def reference(picture: Picture, layer: str, start: int, stop: int) -> Tensor:
            pixels = self.fitted(picture.pixels).to(canvas.device)
            return look(pixels[None], [layer])[layer].expand(stop - start, -1, -1, -1)

        activations = look(canvas, sorted(objective.layers)) if objective.layers else {}
        value = objective.value(Context(activations, lambda: canvas, self.layers, reference))
        return value.expand(len(canvas)).float().cpu()
