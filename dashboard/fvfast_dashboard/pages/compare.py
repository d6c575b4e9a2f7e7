"""Two renders, or two stages of them, on top of one another and in figures."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np
import streamlit as st
from torch import Tensor

from fvfast import differences, planes, quality
from fvfast.errors import FvfastError
from fvfast.store import Entry, Query, Store, Trace
from fvfast.tables import figure
from fvfast_dashboard import charts, components, library, widgets

LISTED = 2000  # renders in a box to choose from


@dataclass(frozen=True)
class Side:
    """One of the two: a render at one of its stages. name: short, unlike the other's."""

    entry: Entry
    trace: Trace | None
    step: int
    picture: bytes
    name: str

    @property
    def finished(self) -> bool:
        return self.step == self.entry.steps

    @property
    def measurable(self) -> bool:
        """Whether the picture is the image itself, not its channels side by side."""
        return not self.entry.image.endswith(planes.SUFFIX)


def show() -> None:
    widgets.title("Compare", "Drag the line. Left and right may be two recipes, two seeds, two paths or two steps.")
    store = library.open_store()
    if store is None or not store.count():
        widgets.empty_store()
        return
    chosen = _chosen(store)
    if chosen is None:
        return
    first, second = chosen
    a, b = _sides(store, first, second)
    if a is None or b is None:
        missing = first if a is None else second
        widgets.problem(f"the image file of {missing.target} is missing or damaged: see `fvfast store verify`")
        return
    a, b = _named(a, b)
    if not (a.measurable and b.measurable):
        components.wipe(a.picture, b.picture, (a.name, b.name), key=f"wipe {a.entry.key} {b.entry.key}")
        st.info("Differences and spectra are measured on images in grey or in three colours only.")
        st.subheader("Histories", anchor=False)
        _histories(a, b)
        return
    image_a, image_b = differences.matched(differences.decode(a.picture), differences.decode(b.picture))
    wipe, map_ = st.columns(2, gap="large")
    with wipe:
        st.subheader("Side by side", anchor=False)
        components.wipe(a.picture, b.picture, (a.name, b.name), key=f"wipe {a.entry.key} {b.entry.key}")
    with map_:
        st.subheader("Where they differ", anchor=False)
        _difference(image_a, image_b)
    _metrics(a, b, image_a, image_b)
    curves, spectra = st.columns(2, gap="large")
    with curves:
        st.subheader("Histories", anchor=False)
        _histories(a, b)
    with spectra:
        st.subheader("Spectra", anchor=False)
        _spectra(a, b, image_a, image_b)


# Which two -------------------------------------------------------------------------------------------------


def _chosen(store: Store) -> tuple[Entry, Entry] | None:
    """The two that the address names, or a pair worth a look; boxes to choose others."""
    named = [st.query_params.get(name) for name in ("a", "b")]
    entries = [library.find(store, key) if key else None for key in named]
    listed = library.rows(store, Query(sort="newest"), LISTED)
    if entries[0] is None:
        entries = _pair(listed.entries, entries[1])
    elif entries[1] is None:
        entries[1] = _partner(store, entries[0], listed.entries)
    if entries[0] is None or entries[1] is None:
        st.info("There is only one render in this store yet. Render the feature again with another recipe or seed.")
        return None
    by_key = {entry.key: entry for entry in [*filter(None, entries), *listed.entries]}
    keys = sorted(by_key, key=lambda key: (by_key[key].model, by_key[key].depth, by_key[key].channel, by_key[key].seed))
    found = []
    for place, name, entry in zip(st.columns(2, gap="large"), ("a", "b"), entries, strict=True):
        assert entry is not None
        label = "Left" if name == "a" else "Right"
        key = place.selectbox(
            label, keys, keys.index(entry.key), format_func=lambda k: _words(by_key[k]), key=f"{name} {entry.key}"
        )
        found.append(by_key[key])
    if [entry.key for entry in found] != named:
        st.query_params.update(a=found[0].key, b=found[1].key)
    return found[0], found[1]


def _words(entry: Entry) -> str:
    return f"{entry.target} · {entry.recipe.get('name', '?')} · seed {entry.seed} · {figure(entry.objective_end)}"


def _pair(entries: list[Entry], second: Entry | None) -> list[Entry | None]:
    """Two renders of one feature where there are such, else any two."""
    seen: dict[tuple[str, str], Entry] = {}
    for entry in entries:
        other = seen.setdefault((entry.model, entry.target), entry)
        if other is not entry and second is None:
            return [other, entry]
    rest = [entry for entry in entries if second is None or entry.key != second.key]
    return [rest[0] if rest else None, second or (rest[1] if len(rest) > 1 else None)]


def _partner(store: Store, entry: Entry, entries: list[Entry]) -> Entry | None:
    same = [one for one in library.of_feature(store, entry) if one.key != entry.key]
    return next(iter([*same, *(one for one in entries if one.key != entry.key)]), None)


def _sides(store: Store, first: Entry, second: Entry) -> list[Side | None]:
    """Both renders, each at the step that its slider says."""
    found: list[Side | None] = []
    for place, name, entry in zip(st.columns(2, gap="large"), ("a", "b"), (first, second), strict=True):
        trace = library.trace(store, entry)
        stages = dict(trace.snapshots) if trace else {}
        step, address = entry.steps, entry.image
        if stages:
            step = place.select_slider("Steps", [*stages, entry.steps], entry.steps, key=f"step {name} {entry.key}")
            address = stages.get(step, entry.image)
        picture = library.picture(store, address)
        sound = picture and _readable(picture)
        found.append(Side(entry, trace, step, planes.viewable(picture), "") if picture and sound else None)
    return found


def _readable(picture: bytes) -> bool:
    try:
        return differences.decode(picture).numel() > 0
    except FvfastError:
        return False


def _named(a: Side, b: Side) -> tuple[Side, Side]:
    """Both with the shortest names that tell them apart."""
    ways = (
        lambda side: side.entry.target,
        lambda side: str(side.entry.recipe.get("name", "?")),
        lambda side: f"seed {side.entry.seed}",
        lambda side: f"{side.entry.path}, {side.entry.dtype}",
        lambda side: f"step {side.step}",
        lambda side: side.entry.key[:8],
    )
    words = next(([way(a), way(b)] for way in ways if way(a) != way(b)), ["left", "right"])
    return replace(a, name=words[0]), replace(b, name=words[1])


# What they are ---------------------------------------------------------------------------------------------


def _difference(a: Tensor, b: Tensor) -> None:
    """The map of differences, on a scale that reaches as far as they do."""
    apart = differences.difference(a, b)
    largest = float(apart.max())
    st.image(charts.heat(apart.numpy(), largest), width="stretch")
    charts.heat_scale(largest)


def _metrics(a: Side, b: Side, image_a: Tensor, image_b: Tensor) -> None:
    st.subheader("In figures", anchor=False)
    try:
        likeness = quality.compare(image_a, image_b)
    except FvfastError as error:
        st.info(str(error), icon=":material/info:")
        likeness = {}
    statistics = {
        "Contrast": (quality.contrast, "{:.3f}"),
        "Colourfulness": (quality.colourfulness, "{:.3f}"),
        "Spectrum slope": (quality.spectrum_slope, "{:.2f}"),
        "Energy beyond half the Nyquist frequency": (quality.high_frequency, "{:.1%}"),
    }
    values = [("Objective", *(figure(s.entry.objective_end) if s.finished else "at the end only" for s in (a, b)))]
    for name, (statistic, form) in statistics.items():
        values.append((name, *(form.format(float(statistic(image[None]))) for image in (image_a, image_b))))
    cells = st.columns(4)
    for cell, (name, label, form, tip) in zip(cells, LIKENESS, strict=True):
        value = likeness.get(name)
        cell.metric(label, "not measured" if value is None else _form(value, form), help=tip, border=True)
    table = {"": [row[0] for row in values], a.name: [row[1] for row in values], b.name: [row[2] for row in values]}
    st.table(table)
    if image_a.shape != differences.decode(a.picture).shape or image_b.shape != differences.decode(b.picture).shape:
        st.caption("The smaller image was enlarged to the larger one's size for the map, the figures and the spectra.")


LIKENESS = (
    ("psnr", "PSNR", "{:.1f} dB", "Peak signal to noise ratio: the higher, the closer the pixels."),
    ("ms_ssim", "MS-SSIM", "{:.3f}", "Structural similarity at several scales: 1 for equal images."),
    ("fsim", "FSIM", "{:.3f}", "Similarity of edges, lines and colour: 1 for equal images."),
    ("rms", "RMS difference", "{:.3f}", "Root mean square difference of values in 0..1: 0 for equal images."),
)


def _form(value: float, form: str) -> str:
    return "equal" if math.isinf(value) else form.format(value)


def _histories(a: Side, b: Side) -> None:
    curves = {side.name: side.trace.history for side in (a, b) if side.trace is not None and len(side.trace.history)}
    if not curves:
        st.caption("No history was kept of these renders.")
        return
    charts.show(charts.histories(curves))


def _spectra(a: Side, b: Side, image_a: Tensor, image_b: Tensor) -> None:
    curves: dict[str, tuple[np.ndarray, np.ndarray]] = {}
    for side, image in ((a, image_a), (b, image_b)):
        frequency, power = quality.radial_power(image[None])
        curves[side.name] = (frequency.numpy(), power[0].numpy())
    charts.show(charts.spectra(curves))
