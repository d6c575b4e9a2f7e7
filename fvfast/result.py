"""What a render is: its images, and all that is worth knowing of how they came about."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import PIL.Image
from torch import Tensor

from fvfast import files, film, planes, video
from fvfast.channels import counted
from fvfast.errors import FvfastError
from fvfast.recipes import Recipe
from fvfast.tables import figure

if TYPE_CHECKING:
    from fvfast.models import Model
    from fvfast.subjects import Subject


@dataclass(frozen=True)
class Progress:
    """How far a render is. `value` is the mean objective of the views last seen, NaN before the first."""

    steps_done: int
    steps_total: int
    images_done: int
    images_total: int
    value: float


@dataclass
class Render:
    """What a render made. The rows of every field are the images, in the order of the targets.

    images: [B, C, H, W] float32 in 0..1, on the CPU; C is the number of channels that the network takes, usually three.
    targets: how each is written; seeds: the seed of each.
    objective_start, objective: the objective on the unaugmented canvas, by the unmodified network in float32, [B].
    history: [B, steps] the objective of the view at each step; NaN where a step was not taken.
    alphas: one an image: opacity [H, W] in 0..1, or None where the parameterisation knows of none.
    snapshots: one list an image of (step, [C, H, W]), or [4, H, W] with a learnt opacity.
    frames: likewise, of those that a film is made of, in 8 bits; none unless asked for.
    recipes: each image's own. specs: what renders each again (see `files.save`).
    seconds: the loop's; steps: taken, summed over images.
    failures: sentences about targets that could not be rendered; notes: sentences worth knowing.
    path: what made the views, "reference" or "triton". form: how the network ran, on a CPU "fused" (as fused
    operations, `fvfast.lowering`) or as its own "modules", on a GPU one of `fvfast.forms`; form_why: the reason.
    dtype: what the network computed in; dtype_why: the reason (`fvfast.precision`).
    interrupted: whether it was stopped early. stages: where the time went, in seconds by name.
    network: what was rendered; subjects: what each image shows; both for `fvfast.keeping`.
    """

    images: Tensor
    targets: list[str]
    seeds: list[int]
    objective_start: Tensor
    objective: Tensor
    history: Tensor
    alphas: list[Tensor | None]
    snapshots: list[list[tuple[int, Tensor]]]
    recipes: list[Recipe]
    specs: list[dict[str, Any]]
    model: str
    device: str
    path: str
    dtype: str
    size: int
    seconds: float
    steps: int
    frames: list[list[tuple[int, Tensor]]] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    form: str = "modules"
    form_why: str = ""
    dtype_why: str = ""
    interrupted: bool = False
    stages: dict[str, float] = field(default_factory=dict)
    network: Model | None = field(default=None, repr=False)
    subjects: list[Subject] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.images)

    def save(self, folder: str | Path = "renders", alpha: bool = False, snapshots: bool = True) -> list[Path]:
        """Write one PNG an image (and its snapshots) into `folder`, made if missing; returns the images' paths.

        Images of other channels than one or three are TIFFs of one page a channel; a PNG beside each shows them all.

        alpha: make images transparent that know of an opacity; snapshots: whether to write these too.
        """
        return files.save(self, Path(folder), alpha, snapshots)

    def sheet(self, columns: int | None = None) -> PIL.Image.Image:
        """All images on one contact sheet, with their targets and objectives."""
        captions = [
            f"{figure(start)} to {figure(end)}"
            for start, end in zip(self.objective_start.tolist(), self.objective.tolist(), strict=True)
        ]
        count = self.images.shape[1]
        tile = 224 if planes.colours(count) else 160 * math.ceil(math.sqrt(count))  # room for every channel
        return files.sheet([files.on_paper(p) for p in self.pictures()], self.targets, captions, columns, tile)

    def pictures(self) -> list[PIL.Image.Image]:
        """The images as pictures, transparent where their recipe has them so; other channels than one or three side by
        side."""
        pictures = [files.to_pil(image) for image in self.images]
        for picture, opacity, recipe in zip(pictures, self.alphas, self.recipes, strict=True):
            if recipe.alpha and opacity is not None:
                picture.putalpha(files.to_mask(opacity))
        return pictures

    def film(self, path: str | Path, rate: int = 20) -> int:
        """Write the optimisation as a moving picture (.gif, .webp or .mp4), all images side by side.

        Needs a render with `frames`; an image that ends before the others stands still. rate: frames a second.
        Returns the number of frames. Raises FvfastError.
        """
        path = Path(path)
        video.check(path)
        if not any(self.frames):
            raise FvfastError("this render kept no frames: ask for them with frames=... (--video on the command line)")
        return video.write(film.grid(self.frames, self.images.shape[1]), path, rate)


def assumption(model: Model) -> str:
    """What a person should know of a model whose normalisation is a guess."""
    return (
        f"{model.name} takes images of {counted(model.channels)} and does not say how they are normalised: mean "
        f"{model.mean[0]:g} and deviation {model.std[0]:g} are assumed (fvfast.load(..., mean=..., std=...) sets them)"
    )


def notes(result: Render) -> list[str]:
    """What a person should know of a finished render: which images stayed grey, or moved in vain."""
    contrast = result.images.std((2, 3)).mean(1)  # [B]
    found: list[str] = []
    if result.network and result.network.assumed:
        found.append(assumption(result.network))
    rows = zip(
        result.targets,
        contrast.tolist(),
        result.objective_start.tolist(),
        result.objective.tolist(),
        strict=True,
    )
    for name, deviation, start, end in rows:
        if deviation < 0.02 and not end > start:
            found.append(f"{name} stayed grey: its gradient died (try another --seed, or a layer before a ReLU)")
        elif end == start:
            # A redirected gradient moves the image; whether that excites anything shows only in the objective.
            found.append(f"{name} never woke: its gradient died (try another --seed, or a layer before a ReLU)")
    return found
