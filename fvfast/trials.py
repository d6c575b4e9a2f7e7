"""The same features by several recipes, kept in a store: what `fvfast quality` renders before it measures."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import nn

from fvfast import atlases, models, recipes, rendering
from fvfast.atlases import AtlasProgress
from fvfast.errors import FvfastError, did_you_mean
from fvfast.expressions import Objective
from fvfast.identity import weights_digest
from fvfast.job import Job
from fvfast.models import Model
from fvfast.objectives import Channel
from fvfast.places import Here, Work
from fvfast.plans import ImagePlan
from fvfast.producing import Options, key_of
from fvfast.store import Store

DEFAULT_STORE = "quality"  # the folder, where none is named
VARIANTS = (*recipes.RECIPES, "default:pixel")

# The bundled network's features: the first four channels of ten blocks and 24 classes at equal distances, so that none
# is chosen for its looks. Three classes for every five channels: the beginning of the list is like the whole.
_BLOCKS = (2, 9, 5, 12, 7, 14, 4, 10, 8, 11)  # shallow and deep by turns
_CHANNELS = [f"_blocks.{block}:{channel}" for channel in range(4) for block in _BLOCKS]
_CLASSES = [f"logits:{index * 1000 // 24}" for index in range(24)]
FEATURES = tuple(
    target
    for _, target in sorted(
        [(i / 40, t) for i, t in enumerate(_CHANNELS)] + [(i / 24, t) for i, t in enumerate(_CLASSES)]
    )
)

# Diversity needs pairs of seeds; every so many features one gets them. With four, it would never be a class.
EVERY = 3


@dataclass(frozen=True)
class Variant:
    """A recipe, perhaps with another parameterisation than its own: `lucent`, `default:pixel`."""

    recipe: str
    image: str | None = None

    @property
    def label(self) -> str:
        return self.recipe if self.image is None else f"{self.recipe}:{self.image}"


@dataclass
class Trials:
    """What was rendered.

    keys: of each variant's images in the store, those still missing left out. rendered: in this run; skipped: there
    before. failures: sentences; interrupted: whether it was stopped early (the same call goes on).
    """

    store: Path
    model: str
    keys: dict[str, list[str]]
    rendered: int = 0
    skipped: int = 0
    failures: list[str] = field(default_factory=list)
    interrupted: bool = False


def variant(text: str) -> Variant:
    """The variant that a text means. Raises FvfastError for an unknown recipe or parameterisation."""
    name, colon, image = text.partition(":")
    if name not in recipes.RECIPES:
        known = ", ".join(recipes.RECIPES)
        raise FvfastError(f"unknown recipe {name!r}{did_you_mean(name, recipes.RECIPES)}; there are {known}")
    if colon:
        recipes.check_image(image)
    return Variant(name, image if colon else None)


def features(count: int) -> list[str]:
    """The first `count` of the bundled network's 64 features; they hold shallow and deep layers, and classes."""
    if not 1 <= count <= len(FEATURES):
        raise FvfastError(f"features must be 1 to {len(FEATURES)}, not {count}")
    return list(FEATURES[:count])


def render(
    model: str | nn.Module | Model = models.DEFAULT_MODEL,
    target: Sequence[str | Objective] | None = None,
    *,
    variants: Sequence[str] = VARIANTS,
    count: int | None = None,
    size: int | None = None,
    steps: int | None = None,
    seeds: int = 2,
    store: str | Path = DEFAULT_STORE,
    device: str | torch.device | None = None,
    threads: int | None = None,
    weights: str = "default",
    progress: Callable[[AtlasProgress], None] | None = None,
    stop: Callable[[], bool] | None = None,
    notify: Callable[[str], None] | None = None,
) -> Trials:
    """Render targets by every variant into a store; what is there already is skipped.

    target: channels and classes, written or as objectives; None for `count` (default all) of the bundled network's 64.
    variants: recipes as `variant` reads them. size, steps: for all variants; None for each one's own.
    seeds: images of every third target, from seed 0 on; the others get one.
    The rest as for `fvfast.atlas`. Raises FvfastError for whatever the caller can mend, with what was finished kept.
    """
    if not 1 <= seeds < 2**31:
        raise FvfastError(f"seeds must be 1 or more and below 2^31, not {seeds}")
    chosen = [variant(text) for text in dict.fromkeys(variants)]
    if not chosen:
        raise FvfastError(f"name at least one recipe; there are {', '.join(VARIANTS)}")
    loaded = models.load(model, weights)
    loaded.need_colours("quality")
    wanted = _targets(loaded, target, count)
    digest, where = weights_digest(loaded), rendering.pick_device(device)
    options = Options(threads=threads)
    planned = {one.label: _plan(one, loaded, wanted, size, steps, seeds, where, digest, options) for one in chosen}
    with Store(store, write=True) as kept:
        return _fill(kept, loaded.name, planned, progress or (lambda _: None), stop or (lambda: False), notify)


def _targets(model: Model, target: Sequence[str | Objective] | None, count: int | None) -> Sequence[str | Objective]:
    if target and count is not None:
        raise FvfastError("the number of features belongs to the bundled list: leave it out, or leave out the targets")
    if target:
        return target
    if model.name != models.DEFAULT_MODEL:
        raise FvfastError(f"name at least one target; `fvfast layers {model.name}` lists the layers")
    return features(len(FEATURES) if count is None else count)


def _plan(
    variant: Variant,
    model: Model,
    target: Sequence[str | Objective],
    size: int | None,
    steps: int | None,
    seeds: int,
    device: torch.device,
    digest: str,
    options: Options,
) -> Work:
    preset = recipes.RECIPES[variant.recipe]
    canvas = rendering.canvas_size(preset, size, model)
    job = Job(model, device, rendering.pick_dtype(None, device, model.module), canvas, preset.view)
    plan: list[ImagePlan] = []
    for number, objective in enumerate(job.objectives(target)):
        if not isinstance(objective, Channel):
            raise FvfastError(f"quality is measured on channels and classes, not on {objective.label}")
        own = rendering.recipe_for(variant.recipe, objective, image=variant.image, steps=steps, lr=None, size=canvas)
        copies = range(seeds if number % EVERY == 0 else 1)
        plan.extend(ImagePlan(len(plan) + at, objective, own, seed) for at, seed in enumerate(copies))
    job.kind(plan[0].recipe.image)  # a generator that is not there is told of before any work is done
    return Work(job, device, digest, options, plan)


def _fill(
    store: Store,
    model: str,
    planned: dict[str, Work],
    progress: Callable[[AtlasProgress], None],
    stop: Callable[[], bool],
    notify: Callable[[str], None] | None,
) -> Trials:
    keys = {label: [key_of(work.job, image, work.weights) for image in work.plan] for label, work in planned.items()}
    total = len({key for some in keys.values() for key in some})
    trials = Trials(store.folder, model, keys)
    trials.skipped = len(store.present(key for some in keys.values() for key in some))
    started = time.perf_counter()
    for work in planned.values():
        before = trials.rendered

        def tell(one: AtlasProgress, before: int = before) -> None:
            done = before + one.rendered
            progress(AtlasProgress(trials.skipped + done, total, done, one.partial, time.perf_counter() - started))

        result = atlases.fill(store, work, Here(), tell, stop, notify or (lambda _: None))
        trials.rendered += result.rendered
        trials.failures.extend(result.failures)
        if result.interrupted:
            trials.interrupted = True
            break
    for label, some in keys.items():
        there = store.present(some)
        trials.keys[label] = [key for key in some if key in there]
    return trials
