"""Dreams over animations: frame by frame, by the same shifts and weights, so that none flickers more than it must."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import fmean
from typing import Any

import PIL.Image
import torch
from torch import Tensor, nn

from fvfast import animations, models, photographs
from fvfast.animations import Animation
from fvfast.dreaming import DEFAULT_PRESET, Dream, Dreamer, DreamProgress, Preset, large_enough, preset_with
from fvfast.errors import FvfastError
from fvfast.expressions import Objective
from fvfast.models import Model
from fvfast.neutral import neutral
from fvfast.photographs import Photograph, Source

# Told which frame is worked on, from 1, how many there are, and how far its dream is.
FrameProgress = Callable[[int, int, DreamProgress], None]


@dataclass
class DreamtAnimation:
    """An animation dreamt over, or its first frames where it was interrupted.

    source: what it was made of. pictures: the frames, in 8 bits, RGB or RGBA. durations: for how long each is shown, in
    ms; None for pages. photograph: the first frame, with what the file says besides pixels.
    targets, model, device, dtype, dtype_why, sizes: as in `Dream`. objective_start, objective: means over the frames.
    steps: taken for all frames together. seconds: they took.
    """

    source: Animation
    pictures: list[PIL.Image.Image] = field(repr=False)
    durations: list[float | None]
    photograph: Photograph = field(repr=False)
    targets: list[str]
    model: str
    device: str
    objective_start: float
    objective: float
    sizes: list[tuple[int, int]]
    steps: int
    seconds: float
    dtype: str = "float32"
    dtype_why: str = ""
    interrupted: bool = False

    @property
    def images(self) -> Tensor:
        """[N, 3, H, W] float32 in 0..1; of frames that are equally large, as all but a TIFF's pages are."""
        return torch.stack([photographs.to_tensor(picture) for picture in self.pictures])

    def save(self, path: str | Path) -> Path:
        """Write the animation in the format that the name asks for (.gif, .webp, .png); returns the path."""
        animations.check(Path(path), self.source)
        animations.write(self.pictures, self.durations, self.photograph, self.source.plays, Path(path))
        return Path(path)


@neutral()
def dream_animation(
    photo: str | os.PathLike[str] | PIL.Image.Image,
    model: str | nn.Module | Model = models.DEFAULT_MODEL,
    target: str | Objective | Sequence[str | Objective] | None = None,
    *,
    preset: str | Preset = DEFAULT_PRESET,
    guide: Source | None = None,
    tile: int = 512,
    seed: int = 0,
    device: str | torch.device | None = None,
    dtype: str | None = None,
    weights: str = "default",
    progress: FrameProgress | None = None,
    stop: Callable[[], bool] | None = None,
    **settings: Any,
) -> DreamtAnimation:
    """Dream over every frame of an animation.

    photo: a GIF, WebP or PNG with several frames, or a TIFF with several pages; a file, or as a PIL image.
    settings: basis, octaves, scale, steps, strength, jitter; these and all else as for `fvfast.dream`. The seed is that
        of every frame.
    progress: called after every step with the frame's number, from 1, how many there are, and the `DreamProgress`
        within it; stop: asked before every step, ends the dream with the frames that are done.

    Raises FvfastError, one sentence, for whatever the caller can mend.
    """
    chosen = preset_with(preset, **settings)
    animation = animations.find(photo)
    if animation is None:
        raise FvfastError("this picture has one frame: dream over it with fvfast.dream")
    with Dreamer(model, target, chosen, guide, tile, seed, device, dtype, weights) as dreamer:
        return over(dreamer, animation, progress, stop)


def over(
    dreamer: Dreamer,
    animation: Animation,
    progress: FrameProgress | None = None,
    stop: Callable[[], bool] | None = None,
) -> DreamtAnimation:
    """Dream over an animation; see `dream_animation`. Where it is stopped, only the first frame is kept unfinished."""
    dreams: list[Dream] = []  # their photographs are let go of: a film in float32 would fill the memory
    pictures: list[PIL.Image.Image] = []
    durations: list[float | None] = []
    first: Photograph | None = None
    interrupted = False
    for frame in animation.frames():  # what is wrong with the last is said before the first is dreamt over
        large_enough(frame.photograph)
    for number, frame in enumerate(animation.frames(), 1):

        def show(now: DreamProgress, number: int = number) -> None:
            if progress:
                progress(number, len(animation), now)

        # Weights of the first frame's own for all: those of each would vary from frame to frame.
        made = dreamer.dream(frame.photograph, show, stop, balance=number == 1)
        interrupted = made.interrupted
        if interrupted and dreams:
            break
        first = first or made.photograph
        pictures.append(photographs.to_pil(made.photograph))
        durations.append(frame.duration)
        made.photograph = first
        dreams.append(made)
        if interrupted:
            break
    assert first is not None
    return DreamtAnimation(
        source=animation,
        pictures=pictures,
        durations=durations,
        photograph=first,
        targets=dreams[0].targets,
        model=dreams[0].model,
        device=dreams[0].device,
        objective_start=fmean(dream.objective_start for dream in dreams),
        objective=fmean(dream.objective for dream in dreams),
        dtype=dreams[0].dtype,
        dtype_why=dreams[0].dtype_why,
        sizes=dreams[0].sizes,
        steps=sum(dream.steps for dream in dreams),
        seconds=sum(dream.seconds for dream in dreams),
        interrupted=interrupted,
    )
