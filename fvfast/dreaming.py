"""DeepDream: a photograph changed until a network sees more of what it already sees in it.

After Mordvintsev, Olah and Tyka, "Inceptionism" (2015): gradient ascent that starts from the photograph, from coarse to
fine; what one scale has dreamt up is handed to the next as a change to the photograph, which keeps its own details.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fvfast import arguments, models, photographs, precision, prepare, targets
from fvfast.dreamsteps import FourierStep, PixelStep, Step
from fvfast.errors import FvfastError, did_you_mean, is_out_of_memory
from fvfast.expressions import Objective
from fvfast.guide import guided
from fvfast.job import Job
from fvfast.models import Model
from fvfast.neutral import neutral
from fvfast.optimize import keep_large_blocks, layers_of
from fvfast.photographs import Photograph, Source
from fvfast.rendering import pick_device
from fvfast.tiles import Tiled

SMALLEST = 32  # pixels of the shorter side; below, networks have nothing left to see
SMALLEST_TILE = 128
BASES = ("pixel", "fourier")
MOST_OCTAVES = 1000


@dataclass(frozen=True)
class Preset:
    """How a dream is dreamt.

    target: what it is of, for the bundled model. octaves: how many scales, None for as many as make the coarsest
    `coarsest` pixels on its shorter side; scale: from one to the next.
    steps: at each scale; strength: the mean change of a colour value in a step, in 0..1.
    jitter: the largest shift in pixels of what the network sees. basis: "pixel" or "fourier".
    """

    target: tuple[str, ...]
    octaves: int | None = None
    coarsest: int = 180
    scale: float = 1.4
    steps: int = 12
    strength: float = 0.009
    jitter: int = 32
    basis: str = "pixel"


PRESETS = {
    "creatures": Preset(("_blocks.12:7", "_blocks.10")),
    "garden": Preset(("_blocks.12",)),
    "patterns": Preset(("_blocks.7",)),
    "engraving": Preset(("_blocks.4",)),
}
DEFAULT_PRESET = "creatures"


@dataclass(frozen=True)
class DreamProgress:
    """How far a dream is. Work is counted in pixels, since the steps of one octave take longer than another's.

    value: the objective at the last step, as the network saw the picture.
    """

    steps_done: int
    pixels_done: int
    pixels_total: int
    octave: int
    octaves: int
    value: float


@dataclass
class Dream:
    """A photograph dreamt over.

    photograph: the result, with what the photograph's file said. targets: what it is of.
    objective_start, objective: of the photograph and of the result, at full size, unshifted; the objectives are
    weighed so that each pulls equally hard (a weighted mean).
    sizes: (height, width) of every octave that was begun. steps: taken. seconds: they took.
    dtype: what the network computed in; dtype_why: the reason. notes: sentences worth knowing.
    """

    photograph: Photograph
    targets: list[str]
    model: str
    device: str
    objective_start: float
    objective: float
    sizes: list[tuple[int, int]]
    steps: int
    seconds: float
    interrupted: bool = False
    dtype: str = "float32"
    dtype_why: str = ""
    notes: list[str] = field(default_factory=list)

    @property
    def image(self) -> Tensor:
        """[3, H, W] float32 in 0..1."""
        return self.photograph.image

    def save(self, path: str | Path) -> Path:
        """Write the result in the format that the name asks for; returns the path."""
        photographs.write(self.photograph, Path(path))
        return Path(path)


@neutral()
def dream(
    photo: Source,
    model: str | nn.Module | Model = models.DEFAULT_MODEL,
    target: str | Objective | Sequence[str | Objective] | None = None,
    *,
    preset: str | Preset = DEFAULT_PRESET,
    basis: str | None = None,
    octaves: int | None = None,
    scale: float | None = None,
    steps: int | None = None,
    strength: float | None = None,
    jitter: int | None = None,
    guide: Source | None = None,
    tile: int = 512,
    seed: int = 0,
    device: str | int | torch.device | None = None,
    dtype: str | torch.dtype | None = None,
    weights: str = "default",
    progress: Callable[[DreamProgress], None] | None = None,
    stop: Callable[[], bool] | None = None,
) -> Dream:
    """Change a photograph towards what a network sees in it.

    photo: a file, a PIL image, an array or a tensor (`fvfast.photographs.take` says which), at least 32 px on each
        side. An animation is refused: `fvfast.dream_animation` takes all its frames.
    model, weights: as for `fvfast.render`. target: what is to be seen, as there; several are balanced against one
        another. None takes the preset's, which are the bundled model's.
    preset: a name (creatures, garden, patterns, engraving) or a Preset; basis, octaves, scale, steps, strength, jitter
        override it (see Preset).
    guide: another picture; the network then looks in the photograph for what it sees in the guide. Targets must be
        whole layers.
    tile: the longest side in pixels that goes through the network at once. It bounds the memory; what fits into one
        tile is not cut.
    seed: of the shifts. device, dtype: as for `fvfast.render`.
    progress: called after every step; stop: asked before every step, ends the dream early with what there is.

    Raises FvfastError, one sentence, for whatever the caller can mend.
    """
    settings = preset_with(
        preset, basis=basis, octaves=octaves, scale=scale, steps=steps, strength=strength, jitter=jitter
    )
    arguments.callables(progress=progress, stop=stop)
    photograph = large_enough(photo)
    with Dreamer(model, target, settings, guide, tile, seed, device, dtype, weights) as dreamer:
        return dreamer.dream(photograph, progress, stop)


class Dreamer:
    """A network made ready to dream; a context manager."""

    def __init__(
        self,
        model: str | nn.Module | Model,
        target: str | Objective | Sequence[str | Objective] | None,
        settings: Preset,
        guide: Source | None = None,
        tile: int = 512,
        seed: int = 0,
        device: str | int | torch.device | None = None,
        dtype: str | torch.dtype | None = None,
        weights: str = "default",
    ) -> None:
        self.settings, self.seed = settings, arguments.seed(seed)
        self.tile = tile = arguments.whole("tile", tile, SMALLEST_TILE, unit=" px")
        dtype = arguments.dtype_name(dtype)
        loaded = models.load(model, weights)
        loaded.need_colours("a dream")
        where = pick_device(device)
        self.precision = precision.choose(dtype, where, loaded.module)
        self.job = Job(loaded, where, self.precision.dtype, loaded.size + 32, None)
        if self.job.view != loaded.size + 32:
            raise FvfastError(f"{loaded.name} takes images of {self.job.view} px only; a dream needs every size")
        if target is None and loaded.name == models.DEFAULT_MODEL:
            target = settings.target
        self.objectives = self.job.objectives(target)
        if guide is not None:
            self.objectives = guided(self.job, self.objectives, large_enough(guide).image)
        wanted = layers_of(self.objectives)
        self.tap = prepare.prepare(self.job.module, self.job.layers, wanted, self.job.view, self.job.dtype)
        mean, std = (torch.tensor(v, device=where) for v in (loaded.mean, loaded.std))
        self.tiled = Tiled(self.tap, self.objectives, mean, std, self.job.dtype, tile)
        keep_large_blocks()

    def __enter__(self) -> Dreamer:
        return self

    def __exit__(self, *exc: object) -> None:
        self.tap.__exit__(*exc)

    def dream(
        self,
        photograph: Photograph,
        progress: Callable[[DreamProgress], None] | None = None,
        stop: Callable[[], bool] | None = None,
        preview: Callable[[Tensor], None] | None = None,
        balance: bool = True,
    ) -> Dream:
        """Dream over a photograph; see `fvfast.dream`. preview: shown the picture, at its octave's size, after every
        step: [3, h, w] on the device. balance: weigh several objectives by this photograph, not as the last one's."""
        started = time.perf_counter()
        base = photograph.image.to(self.job.device, torch.float32)
        try:
            run = _Run(self, octave_sizes(base.shape[-2], base.shape[-1], self.settings), progress, stop, preview)
            picture = run.octaves(base, balance)
            start, end = self.tiled.value(base), self.tiled.value(picture)
        except Exception as error:
            if not is_out_of_memory(error):
                raise
            raise FvfastError(f"memory ran out with tiles of {self.tile} px: use a smaller --tile") from error
        return Dream(
            photograph=photograph.with_image(picture.cpu()),
            targets=[targets.label(objective, self.job.model) for objective in self.objectives],
            model=self.job.model.name,
            device=self.job.device.type,
            objective_start=start,
            objective=end,
            sizes=run.sizes[: run.octave],
            steps=run.steps,
            seconds=time.perf_counter() - started,
            interrupted=run.stopped,
            dtype=str(self.job.dtype).removeprefix("torch."),
            dtype_why=self.precision.why,
            notes=self.precision.notes,
        )

    def zoom(self, picture: Tensor, frames: int, rate: float = 1.03, steps: int = 2) -> Iterator[Tensor]:
        """Fall into a dream: each frame a little closer, and dreamt over again. Yields [3, H, W] in 0..1.

        picture: where to begin, [3, H, W]. rate: how much closer; steps: how many a frame.
        """
        height, width = picture.shape[-2:]
        picture = picture.to(self.job.device)
        generator = torch.Generator().manual_seed(self.seed)
        for frame in range(frames):
            if frame:
                step = self.step(height, width)
                picture = _closer(picture, rate)
                for _ in range(steps):
                    picture, _ = self.move(picture, step, generator)
            yield picture.cpu()

    def step(self, height: int, width: int) -> Step:
        """What turns gradients into steps at one octave's size."""
        if self.settings.basis == "fourier":
            return FourierStep(height, width, self.job.device)
        return PixelStep()

    def move(self, picture: Tensor, step: Step, generator: torch.Generator) -> tuple[Tensor, float]:
        """One step: the picture after it, and the objective before it."""
        gradient, value = self.tiled.gradient(picture, self._shift(picture, generator))
        direction = step(gradient)
        return direction.mul_(self.settings.strength).add_(picture).clamp_(0, 1), value

    def _shift(self, picture: Tensor, generator: torch.Generator) -> tuple[int, int]:
        """Where the tiles begin: anywhere, if there are seams to hide, else within the jitter."""
        shifts = []
        for length in picture.shape[-2:]:
            reach = self.settings.jitter if length <= self.tile else max(self.settings.jitter, self.tile // 2)
            shifts.append(int(torch.randint(-reach, reach + 1, (), generator=generator)))
        return shifts[0], shifts[1]


class _Run:
    """One photograph's way through the octaves."""

    def __init__(
        self,
        dreamer: Dreamer,
        sizes: list[tuple[int, int]],
        progress: Callable[[DreamProgress], None] | None,
        stop: Callable[[], bool] | None,
        preview: Callable[[Tensor], None] | None,
    ) -> None:
        self.dreamer, self.sizes, self.progress, self.stop = dreamer, sizes, progress, stop
        self.preview = preview
        self.steps = self.pixels = self.octave = 0
        self.stopped = False
        self.total = sum(height * width for height, width in sizes) * dreamer.settings.steps

    def octaves(self, base: Tensor, balance: bool) -> Tensor:
        """From the photograph [3, H, W] to the dream [3, H, W]. balance: the objectives, at the first octave."""
        generator = torch.Generator().manual_seed(self.dreamer.seed)
        change = None  # [3, h, w]: what has been dreamt up so far, at the last octave's size
        for size in self.sizes:
            self.octave += 1
            small = resize(base, size)
            picture = small if change is None else (small + resize(change, size)).clamp_(0, 1)
            if balance and self.octave == 1:
                self.dreamer.tiled.balance(picture)
            picture = self._steps(picture, generator)
            change = picture - small
            if self.stopped:
                break
        assert change is not None
        if change.shape == base.shape:
            return picture  # pyright: ignore[reportPossiblyUnboundVariable] (there is at least one octave)
        return (base + resize(change, (base.shape[-2], base.shape[-1]))).clamp_(0, 1)

    def _steps(self, picture: Tensor, generator: torch.Generator) -> Tensor:
        step = self.dreamer.step(picture.shape[-2], picture.shape[-1])
        for _ in range(self.dreamer.settings.steps):
            if self.stop and self.stop():
                self.stopped = True
                break
            picture, value = self.dreamer.move(picture, step, generator)
            self.steps += 1
            self.pixels += picture[0].numel()
            if self.preview:
                self.preview(picture)
            if self.progress:
                done = (self.steps, self.pixels, self.total, self.octave, len(self.sizes))
                self.progress(DreamProgress(*done, value))
        return picture


def octave_sizes(height: int, width: int, settings: Preset) -> list[tuple[int, int]]:
    """(height, width) of every octave, coarse to fine; the last is the photograph's own."""
    short = min(height, width)
    count = settings.octaves
    if count is None:
        count = 1 + max(0, round(math.log(short / settings.coarsest) / math.log(settings.scale)))
    sizes = []
    for octave in reversed(range(count)):
        factor = settings.scale**-octave
        if octave == 0 or short * factor >= SMALLEST:
            sizes.append((round(height * factor), round(width * factor)))
    return sizes


def resize(image: Tensor, size: tuple[int, int]) -> Tensor:
    """A picture [3, H, W] at another size, without aliasing; itself where it has that size."""
    if image.shape[-2:] == size:
        return image
    return F.interpolate(image[None], size=size, mode="bilinear", align_corners=False, antialias=True)[0]


def _closer(picture: Tensor, rate: float) -> Tensor:
    """The middle of a picture [3, H, W], `rate` times as large."""
    matrix = torch.tensor([[[1 / rate, 0, 0], [0, 1 / rate, 0]]], device=picture.device)
    grid = F.affine_grid(matrix, [1, *picture.shape], align_corners=False)
    return F.grid_sample(picture[None], grid, mode="bicubic", padding_mode="border", align_corners=False)[0].clamp(0, 1)


def large_enough(photo: Source) -> Photograph:
    """A picture in which a network sees something. Raises FvfastError for one that is too small, as `take` does."""
    found = photographs.take(photo)
    height, width = found.image.shape[-2:]
    if min(height, width) < SMALLEST:
        raise FvfastError(f"a picture must be {SMALLEST} px or more on each side, not {width}x{height}")
    return found


def preset_with(preset: str | Preset, **changes: float | str | None) -> Preset:
    """A preset with some of its fields (those that are not None) changed. Raises FvfastError."""
    if not isinstance(preset, Preset):
        if arguments.text("preset", preset) not in PRESETS:
            raise FvfastError(
                f"unknown preset {preset!r}{did_you_mean(preset, PRESETS)}; there are {', '.join(PRESETS)}"
            )
        preset = PRESETS[preset]
    settings: Preset = replace(preset, **{key: value for key, value in changes.items() if value is not None})
    if arguments.text("basis", settings.basis) not in BASES:
        raise FvfastError(f"unknown basis {settings.basis!r}; there are {', '.join(BASES)}")
    exact = {
        "octaves": arguments.maybe_whole("octaves", settings.octaves, 1, MOST_OCTAVES),
        "steps": arguments.whole("steps", settings.steps, 1, arguments.MANY),
        "jitter": arguments.whole("jitter", settings.jitter, 0),
        "scale": arguments.number("scale", settings.scale, above=1.0, most=1e6),
    }
    strength = settings.strength
    if not arguments.is_number(strength) or not 0 < strength <= 1:
        raise FvfastError(f"strength must be above 0 and at most 1, not {arguments.shown(strength)}")
    return replace(settings, strength=float(strength), **exact)
