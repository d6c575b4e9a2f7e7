"""Every feature of a layer or a network, kept in a store as soon as it is there: a run may end at any moment."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from fvfast import arguments, blobs, models, precision, rendering
from fvfast.errors import FvfastError
from fvfast.forms import AUTO
from fvfast.identity import weights_digest
from fvfast.job import Job
from fvfast.models import Model
from fvfast.neutral import neutral
from fvfast.objectives import Channel
from fvfast.places import Here, Place, Work
from fvfast.plans import ImagePlan
from fvfast.producing import Options, key_of
from fvfast.recipes import Recipe
from fvfast.result import assumption
from fvfast.selection import features
from fvfast.store import DEFAULT, Store

ENGINES = ("local", "ray")


@dataclass(frozen=True)
class AtlasProgress:
    """How far an atlas is.

    done, total: features, those that were there before included; rendered: by this run; partial: what those in the
    works amount to, in features; seconds: since it began to render.
    """

    done: int
    total: int
    rendered: int
    partial: float
    seconds: float

    @property
    def rate(self) -> float:
        """Features a second; 0 before there is anything to measure."""
        return (self.rendered + self.partial) / self.seconds if self.seconds > 0.5 else 0.0

    @property
    def seconds_left(self) -> float | None:
        """At this rate; None before it is known."""
        return (self.total - self.done - self.partial) / self.rate if self.rate else None


@dataclass
class AtlasResult:
    """What a run came to.

    store: its folder; keys: of every feature asked for, in order. rendered: in this run; skipped: there before.
    failures: sentences about features that could not be rendered. seconds: of rendering; features_per_s: rendered in
    them. interrupted: whether it was stopped early; the same call goes on. dtype: what the network computes in;
    dtype_why: the reason.
    """

    store: Path
    model: str
    keys: list[str]
    skipped: int
    rendered: int = 0
    failures: list[str] = field(default_factory=list)
    seconds: float = 0.0
    interrupted: bool = False
    dtype: str = ""
    dtype_why: str = ""

    @property
    def features_per_s(self) -> float:
        return self.rendered / self.seconds if self.seconds else 0.0


@neutral()
def atlas(
    model: str | nn.Module | Model = models.DEFAULT_MODEL,
    layers: str | Sequence[str] = (),
    *,
    channels: str | None = None,
    everything: bool = False,
    store: str | Path = DEFAULT,
    engine: str = "local",
    address: str | None = None,
    recipe: str | Recipe = "default",
    image: str | None = None,
    size: int | None = None,
    steps: int | None = None,
    seed: int = 0,
    copies: int = 1,
    lr: float | None = None,
    batch: int | None = None,
    device: str | torch.device | None = None,
    dtype: str | torch.dtype | None = None,
    threads: int | None = None,
    network: str = AUTO,
    weights: str = "default",
    image_format: str = "png",
    progress: Callable[[AtlasProgress], None] | None = None,
    stop: Callable[[], bool] | None = None,
    notify: Callable[[str], None] | None = None,
) -> AtlasResult:
    """Render many features into a store; what is there already is skipped.

    model, weights, recipe, image, size, steps, seed, copies, lr, device, dtype, threads, network: as for
        `fvfast.render`.
    layers, channels, everything: as for `fvfast.selection.features`: names or patterns; "0-63"; the whole network.
    store: its folder, made where it is missing. engine: "local", or "ray", which spreads batches over a cluster;
    address: of the cluster (default: RAY_ADDRESS, else one that runs on this machine, else a new one).
    batch: images in one tensor; by default one on a CPU, on a GPU what a memory probe says.
    image_format: "png" or "webp", both lossless.
    progress: called a few times a second; stop: asked as often, ends the run; notify: told of what changed on the way.

    Raises FvfastError for whatever the caller can mend, with all that was finished kept.
    """
    _check(engine, address, image_format)
    arguments.callables(progress=progress, stop=stop, notify=notify)
    copies = arguments.whole("copies", copies, 1, arguments.MANY)
    seed, dtype = arguments.seed(seed, copies), arguments.dtype_name(dtype)
    batch = arguments.maybe_whole("batch", batch, 1)
    threads = arguments.maybe_whole("threads", threads, 1, arguments.THREADS)
    everything = arguments.flag("everything", everything)
    named = [layers] if isinstance(layers, str) else arguments.texts("layers", layers)
    channels = None if channels is None else arguments.text("channels", channels)
    image = None if image is None else arguments.text("image", image)
    store, preset = arguments.path("store", store), rendering.preset_of(recipe)
    with _place(engine, address) as place:
        loaded = models.load(model, weights)
        if loaded.assumed:
            (notify or _silent)(assumption(loaded))
        canvas = rendering.canvas_size(preset, size, loaded)
        here, there = place.devices(device)
        rendering.check_network(network, there)
        chosen_dtype = precision.choose(dtype, there, loaded.module)
        job = Job(loaded, here, chosen_dtype.dtype, canvas, preset.view if preset else None)
        chosen = features(job.module, job.layers, loaded.name, named, channels, everything)
        changes = {"image": image, "steps": steps, "lr": lr, "size": canvas}
        plan = _plan(chosen, range(seed, seed + copies), recipe, changes)
        for name in {planned.recipe.image for planned in plan}:
            job.kind(name)  # a generator that is not there is told of before any work is done
        options = Options(batch, threads, image_format=image_format, network=network)
        work = Work(job, there, weights_digest(loaded), options, plan)
        notify = notify or _silent
        for sentence in chosen_dtype.notes:
            notify(sentence)
        with Store(store, write=True) as kept:
            result = fill(kept, work, place, progress or (lambda _: None), stop or (lambda: False), notify)
        result.dtype, result.dtype_why = str(job.dtype).removeprefix("torch."), chosen_dtype.why
        return result


def _check(engine: str, address: str | None, image_format: str) -> None:
    if arguments.text("engine", engine) not in ENGINES:
        raise FvfastError(f"unknown engine {engine!r}; there are {', '.join(ENGINES)}")
    if address is not None and engine != "ray":
        raise FvfastError("--address belongs to --engine ray")
    if arguments.text("image_format", image_format) not in blobs.FORMATS:
        raise FvfastError(f"unknown image format {image_format!r}; there are {', '.join(blobs.FORMATS)}")


def _place(engine: str, address: str | None) -> Place:
    if engine == "local":
        return Here()
    from fvfast.cluster import Cluster

    return Cluster(address)


def _plan(chosen: Sequence[Channel], seeds: range, recipe: str | Recipe, changes: dict[str, Any]) -> list[ImagePlan]:
    plan: list[ImagePlan] = []
    for objective in chosen:
        own = rendering.recipe_for(recipe, objective, **changes)
        plan.extend(ImagePlan(len(plan) + at, objective, own, seed) for at, seed in enumerate(seeds))
    return plan


def fill(
    store: Store,
    work: Work,
    place: Place,
    progress: Callable[[AtlasProgress], None],
    stop: Callable[[], bool],
    notify: Callable[[str], None],
) -> AtlasResult:
    """Have the missing images rendered, and keep each chunk of them as soon as it is there."""
    planned = {key_of(work.job, image, work.weights): image for image in work.plan}
    there = store.present(planned)
    missing = [image for key, image in planned.items() if key not in there]
    result = AtlasResult(store.folder, work.job.model.name, list(planned), len(there))
    started = time.perf_counter()

    def partly(partial: float) -> None:
        done, elapsed = len(there) + result.rendered, time.perf_counter() - started
        progress(AtlasProgress(done, len(planned), result.rendered, partial, elapsed))

    chunks = place.chunks(replace(work, plan=missing), partly, stop, notify)
    try:
        for chunk in chunks:
            store.add(chunk.made)
            result.rendered += len(chunk.made)
            result.failures.extend(chunk.failures)
            result.interrupted |= chunk.interrupted
            partly(0.0)
    finally:
        chunks.close()
        result.seconds = time.perf_counter() - started
    result.interrupted |= stop() and result.rendered < len(missing)
    return result


def _silent(sentence: str) -> None:
    pass
