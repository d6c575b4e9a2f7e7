"""The public call: from a model and targets to images."""

from __future__ import annotations

import dataclasses
import itertools
import os
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from fvfast import arguments, magnitudes, models, precision, recipes
from fvfast.asked import Target
from fvfast.errors import FvfastError, is_out_of_memory
from fvfast.expressions import Objective, Picture
from fvfast.forms import AUTO, NETWORKS
from fvfast.generators import PREFIX, Generator
from fvfast.job import Job
from fvfast.models import Model
from fvfast.neutral import neutral
from fvfast.objectives import interpolated
from fvfast.photographs import Source
from fvfast.plans import ImagePlan, Keep, shared_settings
from fvfast.previews import Preview
from fvfast.recipes import Recipe
from fvfast.result import Progress, Render
from fvfast.seeded import GIVEN, picture
from fvfast.session import Session

SMALLEST = 16  # pixels; the kernels' smallest canvas
LARGEST = 1024
STARTS = ("fourier", "pixel", "phase", "pyramid")  # what can start from a picture
ALIGNED = 0.75  # what part of their parameter aligned images have in common


@neutral()
def render(
    model: str | nn.Module | Model = models.DEFAULT_MODEL,
    target: Target | Sequence[Target] | None = None,
    *,
    recipe: str | Recipe = "default",
    image: str | Generator | None = None,
    magnitude: str | Path | None = None,
    size: int | None = None,
    steps: int | None = None,
    seed: int = 0,
    copies: int = 1,
    lr: float | None = None,
    batch: int | None = None,
    device: str | int | torch.device | None = None,
    dtype: str | torch.dtype | None = None,
    threads: int | None = None,
    network: str = AUTO,
    weights: str = "default",
    start: Source | Picture | None = None,
    alpha: bool = False,
    align: bool = False,
    interpolate: int | None = None,
    patience: int | None = None,
    every: int | None = None,
    snapshots: int | Sequence[int] = (),
    frames: int = 0,
    progress: Callable[[Progress], None] | None = None,
    preview: Callable[[Preview], None] | None = None,
    stop: Callable[[], bool] | None = None,
    notify: Callable[[str], None] | None = None,
) -> Render:
    """Render images that excite parts of a network.

    model: what `fvfast.load` takes; never changed. weights: as there.
    target: a written target ("features.5:3,7", "logits:daisy"), a pair ("features.5", 3), an objective, a layer of the
        network itself, or a list of these; None for the bundled network's showcase.
    recipe: a name (default, lucent, torch-dreams, plain, maco) or a Recipe.
    image, size, steps, lr: override the recipe: parameterisation, canvas in pixels, number and length of steps.
        image: "fourier", "pixel", "phase", "pyramid", "cppn", "generator:NAME" (see `fvfast.generators.find`), or a
        `Generator`.
    magnitude: for phases: the file with their magnitudes, as `fvfast magnitude` writes it.
    seed: of the first copy; `copies` images of each target follow with seed + 1, ... The result is a pure function
        of model, target, recipe, size, steps, seed and dtype on one machine, whatever else is rendered beside it.
    batch: images in one tensor; by default one on a CPU (several at once, on threads), on a GPU what memory allows.
    device, dtype: "cpu", "cuda", ...; "float32", "bfloat16" or "float16". By default a GPU in bfloat16 if there is
        one, else the CPU in float32. A device that does not compute in what is asked for takes float32, faster there
        than what would be emulated; `Render.dtype` and `Render.dtype_why` say so.
    threads: processors for each image on a CPU.
    network: on a GPU, the network's form: "modules", "tuned", "recorded" or "compiled" (docs/performance.md); "auto"
        measures and remembers which is fastest, so that last bits may differ between machines. `Render.form` says.
    start: a picture to start from instead of noise: a file, a PIL image, an array or a tensor
        (`fvfast.photographs.take` says which); its middle square is taken.
    alpha: learn an opacity too (phases have one anyway). align: let all images of this call have a component in common.
    interpolate: make so many images on the way from each target to the next, both ends included.
    patience: stop an image once its last so many steps brought less than 2 % of its rise (`fvfast.plateau`).
    every: keep a snapshot every so many steps. snapshots: after which steps besides, 0 is the start; or, as a number,
        about how many where `every` is not set.
    frames: keep so many frames for a film of the optimisation (`Render.film`).
    progress: called a few times a second; preview: shown each image on its way, two or three times a second, from the
    thread that works on it; stop: asked as often, ends the render early with what there is;
    notify: told of what changed on the way (a smaller batch), or is not as asked for (the dtype).

    Raises FvfastError, one sentence, for whatever the caller can mend.
    """
    started = time.perf_counter()
    arguments.callables(progress=progress, preview=preview, stop=stop, notify=notify)
    alpha, align = arguments.flag("alpha", alpha), arguments.flag("align", align)
    dtype = arguments.dtype_name(dtype)
    known = preset_of(recipe)
    copies = arguments.whole("copies", copies, 1, arguments.MANY)
    seed = arguments.seed(seed, copies)
    batch = arguments.maybe_whole("batch", batch, 1)
    every = arguments.maybe_whole("every", every, 1)
    interpolate = arguments.maybe_whole("interpolate", interpolate, 2, arguments.MANY)
    patience = arguments.maybe_whole("patience", patience, 2)
    threads = arguments.maybe_whole("threads", threads, 1, arguments.THREADS)
    frames = 0 if arguments.is_zero(frames) else arguments.whole("frames", frames, 2, arguments.MANY)
    about, after = arguments.steps_to_keep(snapshots)
    if image is not None and not isinstance(image, Generator):
        image = arguments.text("image", image)
    magnitude = None if magnitude is None else arguments.path("magnitude", magnitude)
    loaded = models.load(model, weights)
    where = pick_device(device)
    chosen = precision.choose(dtype, where, loaded.module)
    check_network(network, where)
    canvas = canvas_size(known, size, loaded)
    try:
        firm = size is not None or bool(known and known.size)
        job = Job(loaded, where, chosen.dtype, canvas, known.view if known else None, firm)
        canvas = max(job.size, SMALLEST)
        if isinstance(image, Generator):
            generator, image = image, PREFIX + image.name
            job.bring(image, generator)
        if start is not None and not isinstance(start, str | os.PathLike):
            job.pictures[GIVEN], start = job.fitted(picture(start).pixels), GIVEN
        changes = {"image": image, "steps": steps, "lr": lr, "size": canvas}
        more = {"start": None if start is None else os.fspath(start), "patience": patience}
        more |= {"alpha": float(alpha) or None, "shared": ALIGNED if align else None}
        options = {key: value for key, value in more.items() if value is not None}
        plan = _plan(job, target, recipe, magnitude, options, interpolate, seed=seed, copies=copies, **changes)
        keep = Keep(every, about, frozenset(after), frames)
        session = Session(job, plan, batch, threads, keep, progress, stop, notify or (lambda _: None))
        session.preview, session.network = preview, network
        session.stages["model"] = time.perf_counter() - started
        for sentence in chosen.notes:
            session.notify(sentence)
        result = session.render()
        result.dtype_why, result.notes = chosen.why, [*loaded.notes, *chosen.notes, *result.notes]
        return result
    except Exception as error:
        if not is_out_of_memory(error):
            raise
        raise FvfastError(f"memory ran out with images of {canvas} px: use a smaller --size or fewer steps") from error


def _plan(
    job: Job,
    target: Target | Sequence[Target] | None,
    recipe: str | Recipe,
    magnitude: str | Path | None,
    options: dict[str, Any],
    interpolate: int | None,
    *,
    seed: int,
    copies: int,
    **changes: Any,
) -> list[ImagePlan]:
    objectives = job.objectives(target)
    if interpolate:
        objectives = _between(objectives, interpolate)
    for objective in objectives:
        for compared in objective.pictures():
            job.fitted(compared.pixels)  # what is wrong with it is said before any work is done
    chosen = [recipe_for(recipe, objective, **changes) for objective in objectives]
    chosen = [_with(job, one, objective, options) for one, objective in zip(chosen, objectives, strict=True)]
    if any(r.shared for r in chosen) and len({shared_settings(r) for r in chosen}) > 1:
        raise FvfastError(
            "layers and classes have recipes of their own: align them apart, or pass one Recipe in Python"
        )
    if magnitude is not None:
        if any(r.image != "phase" for r in chosen):
            raise FvfastError("magnitudes belong to phases: --magnitude needs --image phase")
        magnitudes.read(magnitude)  # what is wrong with it is said before any work is done
        chosen = [dataclasses.replace(r, magnitude=str(magnitude)) for r in chosen]
    for name in {r.image for r in chosen}:
        job.kind(name)  # the same for a generator
    return [
        ImagePlan(row, objective, r, seed + copy)
        for row, (objective, r, copy) in enumerate(
            (objective, r, copy) for objective, r in zip(objectives, chosen, strict=True) for copy in range(copies)
        )
    ]


def _between(objectives: Sequence[Objective], count: int) -> list[Objective]:
    if len(objectives) < 2:
        raise FvfastError("there is nothing to interpolate between: name two targets or more")
    found: list[Objective] = []
    for before, after in itertools.pairwise(objectives):
        found += interpolated(before, after, count)[1 if found else 0 :]
    return found


def _with(job: Job, recipe: Recipe, objective: Objective, options: dict[str, Any]) -> Recipe:
    """The recipe with what belongs to one call: a start, an opacity, a component in common, patience."""
    if recipe.image == "phase":  # which has an opacity of its own
        options = {key: value for key, value in options.items() if key != "alpha"}
    if objective.start is not None and "start" not in options and recipe.start is None:
        square = job.fitted(objective.start.pixels)
        if not job.pictures.setdefault(objective.start.name, square).equal(square):
            raise FvfastError("these images start from different pictures given in Python: render each by itself")
        options = {**options, "start": objective.start.name}
    recipe = dataclasses.replace(recipe, **options)
    if recipe.image.startswith(PREFIX):
        for name, value in (("--alpha", recipe.alpha), ("--align", recipe.shared)):
            if value:
                raise FvfastError(
                    f"a generator paints whole pictures by itself: leave out {name} or choose another --image"
                )
    if recipe.start:
        job.picture(recipe.start)  # what is wrong with it is said before any work is done
        if recipe.image not in STARTS:
            raise FvfastError(f"--image {recipe.image} cannot start from a picture: {', '.join(STARTS)} can")
    return recipe


def recipe_for(recipe: str | Recipe, objective: Objective, **changes: Any) -> Recipe:
    changes["steps"], changes["lr"] = check_steps(changes["steps"], changes["lr"])
    if isinstance(recipe, Recipe):
        recipes.check_image(changes["image"] or recipe.image)
        return dataclasses.replace(recipe, **{k: v for k, v in changes.items() if v is not None})
    return recipes.choose(recipe, objective, **changes)


def preset_of(recipe: str | Recipe) -> Recipe | None:
    """The recipe that is meant, before anything is changed; None for an unknown name. Raises FvfastError."""
    if not isinstance(recipe, Recipe):
        return recipes.RECIPES.get(arguments.text("recipe", recipe))
    check_steps(recipe.steps, recipe.lr)
    for name in ("steps", "size", "view"):
        value = getattr(recipe, name)
        if value is not None and type(value) is not int:
            raise FvfastError(f"a recipe's {name} must be a whole number, not {arguments.shown(value)}")
    return recipe


def check_steps(steps: Any, lr: Any) -> tuple[int | None, float | None]:
    """Number and length of steps as they are computed with; None for the recipe's."""
    steps = arguments.maybe_whole("steps", steps, 1, arguments.MANY)
    return steps, None if lr is None else arguments.number("lr", lr, above=0, most=arguments.LONGEST_STEP)


def canvas_size(recipe: Recipe | None, size: int | None, model: Model) -> int:
    asked = arguments.side(size)
    chosen = asked if asked is not None else (recipe.size if recipe else None) or model.size
    if not SMALLEST <= chosen <= LARGEST:
        raise FvfastError(f"size must be {SMALLEST} to {LARGEST} px, not {arguments.shown(chosen)}")
    return chosen


def pick_device(device: str | int | torch.device | None) -> torch.device:
    if device is None:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if arguments.is_flag(device) or not isinstance(device, (str, int, torch.device)):
        raise FvfastError(f"device must be a name such as 'cpu' or 'cuda:0', not {arguments.shown(device)}")
    try:
        found = torch.device(device)
        torch.zeros(1, device=found).item()  # the device "meta" makes tensors that hold nothing
    except (RuntimeError, AssertionError, OverflowError, ValueError) as error:
        usable = "cpu" + (", cuda" if torch.cuda.is_available() else "")
        raise FvfastError(f"device {arguments.shown(device)} cannot be used here; there is {usable}") from error
    return found


def check_network(network: str, device: torch.device) -> None:
    """Raise FvfastError where a network cannot run in the form that is asked for on a device."""
    if arguments.text("network", network) not in NETWORKS:
        raise FvfastError(f"unknown network form {network!r}; there are {', '.join(NETWORKS)}")
    if network != AUTO and device.type != "cuda":
        raise FvfastError(f"--network {network} is for an NVIDIA GPU: leave it out with --device {device.type}")


def pick_dtype(dtype: str | None, device: torch.device, module: nn.Module | None = None) -> torch.dtype:
    return precision.choose(dtype, device, module).dtype
