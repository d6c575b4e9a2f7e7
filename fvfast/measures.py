"""Every measure of every render, and what a recipe comes to over its features, with intervals."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import torch
from torch import Tensor

from fvfast import models, naturals, quality, rendering
from fvfast.errors import FvfastError
from fvfast.evidence import whole_channel
from fvfast.expressions import Objective
from fvfast.intervals import Interval, interval
from fvfast.job import Job
from fvfast.judging import Judge, SecondNetwork
from fvfast.layers import LOGITS
from fvfast.models import Model
from fvfast.neutral import neutral
from fvfast.objectives import Channel
from fvfast.recipes import RECIPES
from fvfast.reloading import reload
from fvfast.store import Entry, Query, Store
from fvfast.subjects import objective_of

# In the order of the tables, by what they tell. docs/quality.md says what each means.
NETWORK = ("held_out", "kept", "transfer")
EYE = ("slope", "high_frequency", "contrast", "colourfulness")
SEEDS = ("structure", "gram")
MEASURES = (*NETWORK, *EYE, *SEEDS)

SECONDS = ("efficientnet_lite2", "efficientnet_lite0", "efficientnet_lite1")


@dataclass
class Report:
    """What was measured.

    rows: one a render: variant, target, seed, size, steps, objective and the measures of NETWORK and EYE.
    pairs: one for each variant and target with several seeds: the measures of SEEDS. None where a measure does not
    apply (transfer: to classes only).
    second: the second network's name; None where there was none. notes: sentences worth knowing.
    photographs: the measures of EYE of real photographs, and `source`; None where there are none.
    """

    model: str
    rows: list[dict[str, Any]] = field(default_factory=list)
    pairs: list[dict[str, Any]] = field(default_factory=list)
    second: str | None = None
    photographs: dict[str, Any] | None = None
    notes: list[str] = field(default_factory=list)
    interrupted: bool = False

    @property
    def variants(self) -> list[str]:
        return list(dict.fromkeys(row["variant"] for row in self.rows))

    @property
    def features(self) -> list[str]:
        """The targets that every variant has: what is compared is measured on the same features."""
        of = [{row["target"] for row in self.rows if row["variant"] == variant} for variant in self.variants]
        common = set.intersection(*of) if of else set()
        return [target for target in dict.fromkeys(row["target"] for row in self.rows) if target in common]

    def summary(self) -> dict[str, dict[str, Interval | None]]:
        """For each variant and measure, the mean over the `features` with its interval.

        A feature counts once: its seeds are averaged first.
        """
        found: dict[str, dict[str, Interval | None]] = {}
        for variant in self.variants:
            rows = [row for row in [*self.rows, *self.pairs] if row["variant"] == variant]
            found[variant] = {measure: interval(self._by_feature(rows, measure)) for measure in MEASURES}
        return found

    def _by_feature(self, rows: Sequence[dict[str, Any]], measure: str) -> list[float]:
        values: dict[str, list[float]] = {target: [] for target in self.features}
        for row in rows:
            if row["target"] in values and row.get(measure) is not None:
                values[row["target"]].append(row[measure])
        return [sum(some) / len(some) for some in values.values() if some]

    def document(self) -> dict[str, Any]:
        """Everything as JSON."""
        return {
            "model": self.model,
            "second": self.second,
            "photographs": self.photographs,
            "notes": self.notes,
            "features": self.features,
            "summary": {
                variant: {name: None if value is None else asdict(value) for name, value in measures.items()}
                for variant, measures in self.summary().items()
            },
            "renders": self.rows,
            "pairs": self.pairs,
        }


@neutral()
def measure(
    store: str | Path,
    keys: Mapping[str, Sequence[str]] | None = None,
    *,
    model: Model | None = None,
    second: str | Model | None = None,
    device: str | torch.device | None = None,
    progress: Callable[[int, int], None] | None = None,
    stop: Callable[[], bool] | None = None,
) -> Report:
    """Measure renders in a store.

    keys: of each variant's renders; None for every render in the store, by recipe.
    model: the network that made them; None to load it as the store says. second: the network for
    transfer; None for EfficientNet-Lite2 (for its own renders, Lite0), if its weights are there.
    Raises FvfastError for a store of several networks, or a second network that does not know the classes.
    """
    where = rendering.pick_device(device)
    with Store(store) as kept:
        chosen = _everything(kept) if keys is None else _listed(kept, keys)
    entries = [entry for some in chosen.values() for entry in some]
    if not entries:
        raise FvfastError(f"there is nothing to measure in {store}")
    made_by = dict.fromkeys((entry.model, entry.weights_digest) for entry in entries)
    if len(made_by) > 1:
        names = ", ".join(name for name, _ in made_by)
        raise FvfastError(f"{store} holds renders of several networks ({names}): measure one at a time")
    cure = "pass it as model= to fvfast.measures.measure, in Python"
    loaded = model or reload(entries[0].model, entries[0].weights, f"what {store} holds", cure)
    report = Report(loaded.name)
    other = _second(second, loaded, entries, where, report)
    total, done = len(entries), 0
    unsaid: list[str] = []
    for (size, view), group in _grouped(chosen).items():
        job = Job(loaded, where, torch.float32, size, view)
        objectives = _objectives(group, job, unsaid)
        done += sum(entry.key not in objectives for _, entry in group)
        with Judge(loaded, where, size, view, list(objectives.values()), job) as judge:
            pictures: dict[tuple[str, str], list[Tensor]] = {}
            for variant, entry in group:
                if entry.key not in objectives:
                    continue
                if stop and stop():
                    report.interrupted = True
                    return report
                image = read(Path(store) / entry.image)
                report.rows.append(_row(variant, entry, objectives[entry.key], image, judge, other))
                pictures.setdefault((variant, entry.target), []).append(image)
                done += 1
                if progress:
                    progress(done, total)
            report.pairs.extend(
                {
                    "variant": variant,
                    "target": target,
                    "seeds": len(images),
                    **between_seeds(torch.stack(images), judge),
                }
                for (variant, target), images in pictures.items()
                if len(images) > 1
            )
    if unsaid:
        report.notes.append(
            f"{len(unsaid)} render{'s are' if len(unsaid) > 1 else ' is'} not measured, since the store does not say "
            f"what for: {unsaid[0]}{', and others' if len(set(unsaid)) > 1 else ''}"
        )
        if not report.rows:
            raise FvfastError(f"there is nothing to measure in {store}: {report.notes[-1]}")
    if any(pair["structure"] is None for pair in report.pairs):
        report.notes.append("no MS-SSIM between seeds: pip install 'fvfast[quality]'")
    apart = len({row["target"] for row in report.rows}) - len(report.features)
    if apart:
        report.notes.append(f"{apart} features that not every recipe has are left out of the means")
    report.photographs = _photographs(min(row["size"] for row in report.rows))
    return report


def read(path: Path) -> Tensor:
    """An image file as [3, H, W] in 0..1."""
    try:
        with PIL.Image.open(path) as file:
            array = np.array(file.convert("RGB"))
    except (OSError, SyntaxError) as error:
        raise FvfastError(f"cannot read the image {path}; `fvfast store verify` says what is damaged") from error
    return torch.from_numpy(array).permute(2, 0, 1).float() / 255


def looks(images: Tensor) -> dict[str, Tensor]:
    """The measures of EYE, of images [B, 3, H, W] in 0..1, [B] each."""
    functions = (quality.spectrum_slope, quality.high_frequency, quality.contrast, quality.colourfulness)
    return {name: function(images) for name, function in zip(EYE, functions, strict=True)}


def between_seeds(images: Tensor, judge: Judge) -> dict[str, float | None]:
    """The measures of SEEDS: how unlike the images [B, 3, H, W] of one feature are, means over all pairs.

    structure: 1 minus MS-SSIM, None where piq is not installed; gram: see `Judge.diversity`.
    """
    first, second = torch.triu_indices(len(images), len(images), 1)
    try:
        structure = 1 - float(quality.ms_ssim(images[first], images[second]).mean())
    except FvfastError:
        structure = None
    return {"structure": structure, "gram": judge.diversity(images)}


def _objectives(group: Sequence[tuple[str, Entry]], job: Job, unsaid: list[str]) -> dict[str, Objective]:
    """What each render was made for, by key; a sentence into `unsaid` for each of which that is not known."""
    found: dict[str, Objective] = {}
    for _, entry in group:
        try:
            found[entry.key] = objective_of(entry, job)
        except FvfastError as error:
            unsaid.append(str(error))
    return found


def _row(
    variant: str, entry: Entry, objective: Objective, image: Tensor, judge: Judge, other: SecondNetwork | None
) -> dict[str, Any]:
    value, whole = judge.held_out(objective, image), float(judge.on_canvas(objective, image[None]))
    probability = None
    if other is not None and isinstance(objective, Channel) and objective.layer == LOGITS:
        index = other.index(judge.job.model, objective.channel)
        probability = float(other.probability(image[None], index))
    row = {
        "variant": variant,
        "target": entry.target,
        "seed": entry.seed,
        "size": entry.size,
        "steps": entry.steps,
        "key": entry.key,
        "objective": whole,
        "held_out_objective": value,
        "held_out": judge.deviations(objective, value),
        # A share makes sense of what is excited at all
        "kept": value / whole if whole > 0 and (judge.deviations(objective, whole) or 0) > 1 else None,
        "transfer": probability,
    }
    row |= {name: float(found) for name, found in looks(image[None]).items()}
    return {name: None if isinstance(v, float) and not math.isfinite(v) else v for name, v in row.items()}


def _everything(store: Store) -> dict[str, list[Entry]]:
    """All renders by recipe; those of a recipe with several sizes or numbers of steps by these too."""
    found: dict[str, list[Entry]] = {}
    for entry in store.each():
        found.setdefault(_variant(entry), []).append(entry)
    split: dict[str, list[Entry]] = {}
    for variant, entries in found.items():
        once = len({(entry.target, entry.seed) for entry in entries}) == len(entries)
        for entry in entries:
            split.setdefault(variant if once else f"{variant}@{entry.size}px,{entry.steps}", []).append(entry)
    return split


def _variant(entry: Entry) -> str:
    """A stored render's recipe, with its parameterisation where that is not the recipe's own."""
    name, image = str(entry.recipe.get("name", "?")), str(entry.recipe.get("image", ""))
    own = RECIPES[name].image if name in RECIPES else image
    return name if image == own else f"{name}:{image}"


def _listed(store: Store, keys: Mapping[str, Sequence[str]]) -> dict[str, list[Entry]]:
    return {label: [e for key in some for e in store.each(Query(key=key))] for label, some in keys.items()}


def _grouped(chosen: Mapping[str, Sequence[Entry]]) -> dict[tuple[int, int | None], list[tuple[str, Entry]]]:
    """Renders that one judge can look at: of one size, and seen at one."""
    groups: dict[tuple[int, int | None], list[tuple[str, Entry]]] = {}
    for variant, entries in chosen.items():
        for entry in entries:
            groups.setdefault((entry.size, entry.recipe.get("view")), []).append((variant, entry))
    return groups


def _second(
    named: str | Model | None, first: Model, entries: Sequence[Entry], device: torch.device, report: Report
) -> SecondNetwork | None:
    """The network for transfer, and its name into the report; a note there where there is none."""
    found = [whole_channel(entry) for entry in entries if entry.layer == LOGITS]
    classes = [index for index in found if index is not None]
    if not classes:
        return None
    try:
        chosen = named or next(one for one in SECONDS if one != first.name)
        other = SecondNetwork(models.load(chosen), device)
        for index in classes:
            other.index(first, index)
    except FvfastError as error:
        if named is not None:
            raise
        report.notes.append(f"no transfer to a second network: {error}")
        return None
    report.second = other.model.name
    return other


def _photographs(size: int) -> dict[str, Any] | None:
    images = naturals.photographs(size)
    if images is None:
        return None
    return {"source": naturals.SOURCE, "count": len(images), **{k: float(v.mean()) for k, v in looks(images).items()}}
