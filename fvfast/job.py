"""A model on its device: its layers at the size of the views, what its images can be, and how they are judged."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from fvfast import generators, layers, models, photographs, prepare, targets
from fvfast.cppn import Cppn
from fvfast.errors import FvfastError
from fvfast.expressions import Context, Objective, Picture
from fvfast.generators import PREFIX, Generator
from fvfast.identity import tensor_digest
from fvfast.images import Fourier, Kind, Pixel
from fvfast.layers import Tap
from fvfast.models import Model
from fvfast.phase import Phase
from fvfast.photographs import square
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

    def __init__(self, model: Model, device: torch.device, dtype: torch.dtype, size: int, view: int | None) -> None:
        """size: of the canvas; view: of what the network sees, by default the canvas's or the network's only size."""
        self.model, self.device, self.dtype, self.size = model, device, dtype, size
        self.module = prepare.pristine(model.module, device)
        self.view, self.layers = layers.input_size(self.module, view or size, model.size, model.name, model.channels)
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
            self.pictures[start] = self.fitted(photographs.pixels(start))
        return self.pictures[start]

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

    def objectives(self, target: str | Objective | Sequence[str | Objective] | None) -> list[Objective]:
        if target is None:
            if self.model.name != models.DEFAULT_MODEL:
                raise FvfastError(f"name at least one target; `fvfast layers {self.model.name}` lists the layers")
            target = targets.SHOWCASE
        wanted = [target] if isinstance(target, (str, Objective)) else list(target)
        if not wanted:
            raise FvfastError("name at least one target")
        found: list[Objective] = []
        for one in wanted:
            if isinstance(one, str):
                found.extend(targets.parse(one, self.layers, self.model))
                continue
            for name in sorted(one.layers):
                layers.find(self.layers, name, self.model.name)
            one.check(self.layers, self.model.name)
            found.append(one)
        return found

    @torch.no_grad()
    def evaluate(self, tap: Tap, objective: Objective, canvas: Tensor, view: int) -> Tensor:
        """The objective of a canvas [B, C, H, W] as the unmodified network sees it, in float32, [B]."""
        mean, std = (torch.tensor(v, device=canvas.device)[:, None, None] for v in (self.model.mean, self.model.std))

        def look(pictures: Tensor, names: Sequence[str]) -> dict[str, Tensor]:
            seen = (pictures - mean) / std
            if view != self.size:
                seen = F.interpolate(seen, size=(view, view), mode="bilinear", align_corners=False)
            return tap(seen, names)

        def reference(picture: Picture, layer: str, start: int, stop: int) -> Tensor:
            pixels = self.fitted(picture.pixels).to(canvas.device)
            return look(pixels[None], [layer])[layer].expand(stop - start, -1, -1, -1)

        activations = look(canvas, sorted(objective.layers)) if objective.layers else {}
        value = objective.value(Context(activations, lambda: canvas, self.layers, reference))
        return value.expand(len(canvas)).float().cpu()
