"""The public call: from a model and targets to images."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import fvfast_kernels
import PIL.Image
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fvfast import files, layers, models, prepare, recipes, targets
from fvfast.errors import FvfastError
from fvfast.images import PARAMETERISATIONS, Frame, Image
from fvfast.layers import Layer, Tap
from fvfast.models import Model
from fvfast.objectives import Context, Objective
from fvfast.optimize import Batch, OutOfMemory, crew_size, layers_of, run
from fvfast.recipes import Recipe

SMALLEST = 16  # pixels; the kernels' smallest canvas
LARGEST = 1024

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


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

    images: [B, 3, H, W] float32 in 0..1, on the CPU.
    targets: how each is written; seeds: the seed of each.
    objective_start, objective: the objective on the unaugmented canvas, by the unmodified network in float32, [B].
    history: [B, steps] the objective of the view at each step; NaN where a step was not taken.
    snapshots: one list an image of (step, [3, H, W]).
    recipes: each image's own. specs: what renders each again (see `files.save`).
    seconds: the loop's; steps: taken, summed over images.
    failures: sentences about targets that could not be rendered; notes: sentences worth knowing.
    interrupted: whether it was stopped early.
    """

    images: Tensor
    targets: list[str]
    seeds: list[int]
    objective_start: Tensor
    objective: Tensor
    history: Tensor
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
    failures: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    interrupted: bool = False

    def __len__(self) -> int:
        return len(self.images)

    def save(self, folder: str | Path = "renders") -> list[Path]:
        """Write one PNG an image (and its snapshots) into `folder`, made if missing; returns the images' paths."""
        return files.save(self, Path(folder))

    def sheet(self, columns: int | None = None) -> PIL.Image.Image:
        """All images on one contact sheet, with their targets and objectives."""
        captions = [
            f"{start:.2f} to {end:.2f}"
            for start, end in zip(self.objective_start.tolist(), self.objective.tolist(), strict=True)
        ]
        return files.sheet([files.to_pil(i) for i in self.images], self.targets, captions, columns)


def render(
    model: str | nn.Module | Model = models.DEFAULT_MODEL,
    target: str | Objective | Sequence[str | Objective] | None = None,
    *,
    recipe: str | Recipe = "default",
    image: str | None = None,
    size: int | None = None,
    steps: int | None = None,
    seed: int = 0,
    copies: int = 1,
    lr: float | None = None,
    batch: int | None = None,
    device: str | torch.device | None = None,
    dtype: str | None = None,
    threads: int | None = None,
    weights: str = "default",
    every: int | None = None,
    progress: Callable[[Progress], None] | None = None,
    stop: Callable[[], bool] | None = None,
    notify: Callable[[str], None] | None = None,
) -> Render:
    """Render images that excite parts of a network.

    model: what `fvfast.load` takes; never changed. weights: as there.
    target: a written target ("features.5:3,7", "logits:daisy"), an objective, or a list of these; None for the
        bundled network's showcase.
    recipe: a name (default, lucent, torch-dreams, plain) or a Recipe.
    image, size, steps, lr: override the recipe: parameterisation, canvas in pixels, number and length of steps.
    seed: of the first copy; `copies` images of each target follow with seed + 1, ... The result is a pure function
        of model, target, recipe, size, steps, seed and dtype on one machine, whatever else is rendered beside it.
    batch: images in one tensor; by default one on a CPU (several at once, on threads), all on a GPU.
    device, dtype: "cpu", "cuda", ...; "float32", "bfloat16" or "float16". By default a GPU in bfloat16 if there is
        one, else the CPU in float32.
    threads: processors for each image on a CPU.
    every: keep a snapshot every so many steps.
    progress: called a few times a second; stop: asked as often, ends the render early with what there is;
    notify: told of what changed on the way (a smaller batch).

    Raises FvfastError, one sentence, for whatever the caller can mend.
    """
    loaded = models.load(model, weights)
    where = _device(device)
    kind = _dtype(dtype, where)
    for name, value, least in (
        ("seed", seed, 0),
        ("copies", copies, 1),
        ("batch", batch, 1),
        ("every", every, 1),
    ):
        if value is not None and value < least:
            raise FvfastError(f"{name} must be {least} or more, not {value}")
    if threads is not None and threads < 1:
        raise FvfastError(f"threads must be 1 or more, not {threads}")
    job = _Job(loaded, where, kind, _canvas_size(recipe, size, loaded))
    objectives = job.objectives(target)
    chosen = [_recipe(recipe, o, image=image, steps=steps, lr=lr, size=job.size) for o in objectives]
    plan = [
        _Image(row, objective, r, seed + copy)
        for row, (objective, r, copy) in enumerate(
            (objective, r, copy) for objective, r in zip(objectives, chosen, strict=True) for copy in range(copies)
        )
    ]
    return _Run(job, plan, batch, threads, every, progress, stop, notify or (lambda _: None)).render()


# Inside ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Image:
    """One image to make: its row in the result, and what determines it."""

    row: int
    objective: Objective
    recipe: Recipe
    seed: int


class _Job:
    """A model on its device, with its layers at the size of the views."""

    def __init__(self, model: Model, device: torch.device, dtype: torch.dtype, size: int) -> None:
        self.model, self.device, self.dtype, self.size = model, device, dtype, size
        self.module = prepare.pristine(model.module, device)
        self.native, self.layers = layers.input_size(self.module, size, model.size, model.name)

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

    def view_size(self, recipe: Recipe) -> int:
        """The network's only size if it has but one, else the recipe's, else the canvas's."""
        if self.native != self.size:
            return self.native
        return recipe.view or self.size

    @torch.no_grad()
    def evaluate(self, tap: Tap, objective: Objective, canvas: Tensor, view: int) -> Tensor:
        """The objective of a canvas [B, 3, H, W] as the unmodified network sees it, in float32, [B]."""
        mean, std = (torch.tensor(v, device=canvas.device)[:, None, None] for v in (self.model.mean, self.model.std))
        seen = (canvas - mean) / std
        if view != self.size:
            seen = F.interpolate(seen, size=(view, view), mode="bilinear", align_corners=False)
        activations = tap(seen, sorted(objective.layers)) if objective.layers else {}
        value = objective.value(Context(activations, lambda: canvas, self.layers))
        return value.expand(len(canvas)).float().cpu()


class _Run:
    """One call of `render`: batches made, run, made smaller where memory asks for it, and gathered."""

    def __init__(
        self,
        job: _Job,
        plan: Sequence[_Image],
        batch: int | None,
        threads: int | None,
        every: int | None,
        progress: Callable[[Progress], None] | None,
        stop: Callable[[], bool] | None,
        notify: Callable[[str], None],
    ) -> None:
        self.job, self.plan, self.every = job, list(plan), every
        self.progress, self.stop, self.notify = progress, stop, notify
        self.on_cpu = job.device.type == "cpu"
        self.workers, self.threads = crew_size(threads) if self.on_cpu else (1, torch.get_num_threads())
        self.size = batch or (1 if self.on_cpu else len(self.plan))
        self.interrupted = False

    def render(self) -> Render:
        job = self.job
        wanted = layers_of([image.objective for image in self.plan])
        fast = prepare.prepare(job.module, job.layers, wanted, job.native, job.dtype)
        started = time.perf_counter()
        with Tap(fast, job.layers, wanted) as tap, Tap(job.module, job.layers, wanted) as judge:
            begun = self._run(tap)
            seconds = time.perf_counter() - started
            return self._gather(begun, judge, seconds)

    def _run(self, tap: Tap) -> list[Batch]:
        """Run every image, with fewer at a time whenever memory runs out."""
        while True:
            batches = list(self._batches())
            try:
                return run(batches, tap, workers=self.workers, threads=self.threads, poll=lambda: self._poll(batches))
            except OutOfMemory as error:
                self._shrink(error)

    def _shrink(self, error: OutOfMemory) -> None:
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        largest = max(count for count in (len(error.batch.rows), 1))
        if largest > 1 and self.size > 1:
            self.size = max(1, min(self.size, largest) // 2)
        elif self.workers > 1:
            self.workers //= 2
        else:
            raise FvfastError(f"memory ran out with one image of {self.job.size} px: use a smaller --size") from error
        self.notify(f"memory ran out: going on with {self.size * self.workers} images at a time")

    def _batches(self) -> Iterator[Batch]:
        """Images that can share a tensor, at most `self.size` at a time; the longest first, so that none waits."""
        units: list[list[_Image]] = []
        for image in self.plan:
            if image.objective.coupled and units and units[-1][0].objective is image.objective:
                units[-1].append(image)
            else:
                units.append([image])
        groups: dict[Any, list[list[_Image]]] = {}
        for unit in units:
            groups.setdefault(_shared_settings(unit[0].recipe), []).append(unit)
        batches: list[list[_Image]] = []
        for group in groups.values():
            current: list[_Image] = []
            for unit in group:
                if current and len(current) + len(unit) > self.size:
                    batches.append(current)
                    current = []
                current = current + unit
            batches.append(current)
        depth = {name: index for index, name in enumerate(self.job.layers)}

        def cost(batch: list[_Image]) -> int:
            deepest = max((depth[name] for image in batch for name in image.objective.layers), default=0)
            return -batch[0].recipe.steps * (deepest + 1)

        return map(self._batch, sorted(batches, key=cost))

    def _batch(self, images: list[_Image]) -> Batch:
        job, recipe = self.job, images[0].recipe
        view = job.view_size(recipe)
        kind = PARAMETERISATIONS[recipe.image]
        noise: list[Tensor] = []
        tables: list[Tensor] = []
        for image in images:
            # One generator an image: its start and its views do not depend on what is rendered beside it.
            generator = torch.Generator().manual_seed(image.seed)
            noise.append(kind.noise(job.size, generator))
            tables.append(image.recipe.views.draw(recipe.steps, generator, job.size, view))
        mean, std = (torch.tensor(v, device=job.device) for v in (job.model.mean, job.model.std))
        frame = Frame(job.size, view, mean, std, job.dtype, job.device)
        objectives: list[tuple[Objective, int]] = []
        for image in images:
            if objectives and objectives[-1][0] is image.objective:
                objectives[-1] = (image.objective, objectives[-1][1] + 1)
            else:
                objectives.append((image.objective, 1))
        return Batch(
            image=kind([i.recipe for i in images], torch.stack(noise), frame),
            objectives=objectives,
            table=torch.stack(tables, 1),
            lr=torch.tensor([i.recipe.lr for i in images]),
            rows=[i.row for i in images],
            clip=recipe.clip,
            every=self.every,
        )

    def _poll(self, batches: Sequence[Batch]) -> bool:
        if self.progress:
            done = sum(b.done * len(b.rows) for b in batches)
            total = sum(b.steps * len(b.rows) for b in batches)
            finished = sum(len(b.rows) for b in batches if b.done == b.steps)
            last = [float(b.history[b.done - 1].mean()) for b in batches if b.done]
            value = sum(last) / len(last) if last else float("nan")
            self.progress(Progress(done, total, finished, len(self.plan), value))
        if self.stop and self.stop():
            self.interrupted = True
        return self.interrupted

    def _gather(self, begun: Sequence[Batch], judge: Tap, seconds: float) -> Render:
        job = self.job
        good = [b for b in begun if b.error is None]
        failures = [str(b.error) for b in begun if b.error is not None]
        if not good:
            raise begun[0].error or FvfastError("the render was stopped before it began")
        steps = max(b.steps for b in good)
        rows: dict[int, dict[str, Any]] = {}
        threads = torch.get_num_threads()
        torch.set_num_threads(self.threads)
        try:
            for b in good:
                rows.update(self._rows(b, judge, steps))
        finally:
            torch.set_num_threads(threads)
        kept = [image for image in self.plan if image.row in rows]
        taken = [rows[image.row] for image in kept]
        names = [targets.label(image.objective, job.model) for image in kept]
        result = Render(
            images=torch.stack([r["image"] for r in taken]),
            targets=names,
            seeds=[image.seed for image in kept],
            objective_start=torch.stack([r["start"] for r in taken]),
            objective=torch.stack([r["end"] for r in taken]),
            history=torch.stack([r["history"] for r in taken]),
            snapshots=[r["snapshots"] for r in taken],
            recipes=[image.recipe for image in kept],
            specs=[self._spec(image, name, r["done"]) for image, name, r in zip(kept, names, taken, strict=True)],
            model=job.model.name,
            device=_device_name(job.device),
            path=fvfast_kernels.describe(job.device)["backend"],
            dtype=str(job.dtype).removeprefix("torch."),
            size=job.size,
            seconds=seconds,
            steps=sum(b.done * len(b.rows) for b in begun),
            failures=failures,
            interrupted=self.interrupted,
        )
        result.notes = _notes(result)
        return result

    def _rows(self, batch: Batch, judge: Tap, steps: int) -> Iterator[tuple[int, dict[str, Any]]]:
        """What each image of a batch came to. Judged one objective at a time, so that company changes no bit."""
        job = self.job
        with torch.no_grad():
            canvas = batch.image.canvas()
        start_canvas = self._start(batch)
        view = batch.image.frame.view
        history = F.pad(batch.history.T, (0, steps - batch.steps), value=float("nan"))  # [B, steps]
        at = 0
        for objective, count in batch.objectives:
            chunks = [(at, at + count)] if objective.coupled else [(i, i + 1) for i in range(at, at + count)]
            for low, high in chunks:
                start = job.evaluate(judge, objective, start_canvas[low:high], view)
                end = job.evaluate(judge, objective, canvas[low:high], view)
                for i in range(low, high):
                    yield (
                        batch.rows[i],
                        {
                            "image": canvas[i].cpu(),
                            "start": start[i - low],
                            "end": end[i - low],
                            "history": history[i],
                            "snapshots": [(step, image[i]) for step, image in batch.snapshots],
                            "done": batch.done,
                        },
                    )
            at += count

    def _start(self, batch: Batch) -> Tensor:
        """The canvas that a batch began with, made again from its seeds."""
        images = {image.row: image for image in self.plan}
        with torch.no_grad():
            return self._batch([images[row] for row in batch.rows]).image.canvas()

    def _spec(self, image: _Image, name: str, done: int) -> dict[str, Any]:
        recipe = image.recipe if done == image.recipe.steps else dataclasses.replace(image.recipe, steps=done)
        return {
            "model": self.job.model.name,
            "weights": self.job.model.weights,
            "target": name,
            "seed": image.seed,
            "size": self.job.size,
            "steps": done,
            "dtype": str(self.job.dtype).removeprefix("torch."),
            "recipe": recipe.to_dict(),
        }


def _shared_settings(recipe: Recipe) -> tuple[Any, ...]:
    """What images must have in common to be optimised in one tensor."""
    views = "basis" if recipe.views.in_basis else recipe.views
    same = (recipe.image, recipe.steps, recipe.view, recipe.gain, recipe.decorrelate, recipe.clip)
    return (*same, views)


def _notes(result: Render) -> list[str]:
    """What a person should know of a finished render: which images stayed grey."""
    contrast = result.images.std((2, 3)).mean(1)  # [B]
    return [
        f"{name} stayed grey: its gradient died (try another --seed, or a layer before a ReLU)"
        for name, deviation, start, end in zip(
            result.targets,
            contrast.tolist(),
            result.objective_start.tolist(),
            result.objective.tolist(),
            strict=True,
        )
        if deviation < 0.02 and not end > start
    ]


def _recipe(recipe: str | Recipe, objective: Objective, **changes: Any) -> Recipe:
    if changes["steps"] is not None and changes["steps"] < 1:
        raise FvfastError(f"steps must be 1 or more, not {changes['steps']}")
    if changes["lr"] is not None and not changes["lr"] > 0:
        raise FvfastError(f"lr must be above 0, not {changes['lr']}")
    if isinstance(recipe, Recipe):
        return dataclasses.replace(recipe, **{k: v for k, v in changes.items() if v is not None})
    return recipes.choose(recipe, objective, **changes)


def _canvas_size(recipe: str | Recipe, size: int | None, model: Model) -> int:
    known = recipe if isinstance(recipe, Recipe) else recipes.RECIPES.get(recipe)
    chosen = size or (known.size if known else None) or model.size
    if not SMALLEST <= chosen <= LARGEST:
        raise FvfastError(f"size must be {SMALLEST} to {LARGEST} px, not {chosen}")
    return chosen


def _device(device: str | torch.device | None) -> torch.device:
    if device is None:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        found = torch.device(device)
        torch.zeros(1, device=found)
    except (RuntimeError, AssertionError) as error:
        usable = "cpu" + (", cuda" if torch.cuda.is_available() else "")
        raise FvfastError(f"device {str(device)!r} cannot be used here; there is {usable}") from error
    return found


def _device_name(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else device.type


def _dtype(dtype: str | None, device: torch.device) -> torch.dtype:
    if dtype is None:
        return torch.bfloat16 if device.type == "cuda" else torch.float32
    if dtype not in DTYPES:
        raise FvfastError(f"unknown dtype {dtype!r}; there are {', '.join(DTYPES)}")
    return DTYPES[dtype]
