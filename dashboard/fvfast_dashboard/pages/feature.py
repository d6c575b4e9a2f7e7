"""One render, by a link that stays: its image as it came about, and everything that is known of it."""

from __future__ import annotations

import dataclasses
import json
import math
import shlex
from typing import Any

import streamlit as st

from fvfast import evidence, planes
from fvfast.store import Entry, Query, Store, Trace
from fvfast.tables import figure
from fvfast_dashboard import charts, components, library, navigation, settings, snippets, widgets
from fvfast_dashboard.pages.gallery import tile


def show() -> None:
    store = library.open_store()
    if store is None or not store.count():
        widgets.title("Feature")
        widgets.empty_store()
        return
    key = st.query_params.get("key")
    if key is None:
        newest = library.rows(store, Query(sort="newest"), 1).entries
        entry = newest[0] if newest else None
        if entry is None:
            widgets.title("Feature")
            widgets.damaged_rows(library.rows(store))
            return
        st.query_params["key"] = entry.key
    else:
        entry = library.find(store, key)
    _head(store, entry)
    left, right = st.columns([1.1, 1], gap="large")
    trace = library.trace(store, entry)
    with left:
        step = _image(store, entry, trace)
    with right:
        _figures(entry)
        _history(trace, step)
        _again(store, entry)
    _siblings(store, entry)
    _evidence(store, entry)


def _head(store: Store, entry: Entry) -> None:
    before, after = library.beside(store, entry)
    title, previous, following = st.columns([6, 1, 1], vertical_alignment="bottom")
    with title:
        widgets.title(widgets.plain(entry.target))
    for place, other, label, icon in (
        (previous, before, "Previous", ":material/arrow_back:"),
        (following, after, "Next", ":material/arrow_forward:"),
    ):
        tip = other.target if other else "There is none."
        if place.button(label, icon=icon, disabled=other is None, help=tip, width="stretch") and other:
            navigation.go("feature", key=other.key)
    facts = [entry.model, f"{entry.recipe.get('name', '?')} recipe", f"seed {entry.seed}", f"{entry.steps} steps"]
    facts += [f"{entry.size} px", f"{entry.path} path", entry.dtype, entry.created[:10]]
    st.markdown(f":gray[{widgets.plain(' · '.join(facts))}]")


def _image(store: Store, entry: Entry, trace: Trace | None) -> int | None:
    """The image, or one of the stages before it; returns the stage's step."""
    picture = library.picture(store, entry.image)
    slot = st.empty()
    step = None
    if trace and trace.snapshots:
        stages = dict(trace.snapshots)
        steps = [*stages, entry.steps]
        step = st.select_slider("Steps", steps, value=entry.steps, key=f"steps {entry.key}")
        if step != entry.steps:
            picture = library.picture(store, stages[step])
    if picture is None:
        slot.warning(
            f"The image file is missing: `fvfast store verify --store {settings.store_folder()}` tells more.",
            icon=":material/broken_image:",
        )
        return step
    slot.image(planes.viewable(picture), width="stretch")
    suffix = entry.image.rpartition(".")[2] if step in (None, entry.steps) else "webp"
    name = f"{entry.model}-{entry.target}-seed{entry.seed}".replace(":", "-").replace("/", "-").replace(",", "-")
    left, right = st.columns(2)
    left.download_button(
        "Download",
        picture,
        f"{name}.{suffix}",
        f"image/{suffix}",
        icon=":material/download:",
        on_click="ignore",
        width="stretch",
        help="A PNG or TIFF of the image carries its own recipe: `fvfast render --from FILE` renders it again.",
    )
    if right.button("Compare", icon=":material/compare:", width="stretch"):
        others = [one for one in library.of_feature(store, entry) if one.key != entry.key]
        navigation.go("compare", a=entry.key, **({"b": others[0].key} if others else {}))
    return step


def _figures(entry: Entry) -> None:
    gain = entry.objective_end - entry.objective_start
    rate = f"{entry.steps / entry.seconds:.0f} steps/s" if entry.seconds else None
    with st.container(horizontal=True, gap="large"):
        st.metric("At the start", figure(entry.objective_start), width="content")
        change = f"{gain:+.2f}" if math.isfinite(gain) else None
        st.metric("Objective", figure(entry.objective_end), change, width="content")
        st.metric("Seconds", f"{entry.seconds:.1f}", rate, delta_color="off", delta_arrow="off", width="content")
    if entry.note:
        st.info(widgets.plain(entry.note), icon=":material/info:")


def _history(trace: Trace | None, step: int | None) -> None:
    if trace is None or not len(trace.history):
        st.caption("No history was kept of this render. `fvfast atlas` and `fvfast render --store` keep one now.")
        return
    charts.show(charts.histories({"objective": trace.history}, step))


def _again(store: Store, entry: Entry) -> None:
    """What renders it again, to copy."""
    line, code, recipe = st.tabs(["Command", "Python", "Recipe"])
    line.code(snippets.command(settings.store_folder(), entry), language="bash", wrap_lines=True)
    code.code(snippets.python(entry), language="python", wrap_lines=True)
    recipe.code(json.dumps(entry.recipe, indent=1), language="json", height=220)


def _siblings(store: Store, entry: Entry) -> None:
    others = [one for one in library.of_feature(store, entry) if one.key != entry.key]
    if not others:
        return
    st.subheader("The same feature by other recipes and seeds", anchor=False)
    tiles = [
        dataclasses.replace(tile(store, one), title=f"{one.recipe.get('name', '?')}, seed {one.seed}",
                            caption=f"{figure(one.objective_end)} · {one.steps} steps")
        for one in others[:60]
    ]  # fmt: skip
    _open(components.grid(tiles, [], key="siblings", selectable=False))


def _evidence(store: Store, entry: Entry) -> None:
    """Places in the user's own images that excite the feature, and the features that fire with it.

    Both are known of whole channels only.
    """
    if evidence.whole_channel(entry) is None:
        return
    try:
        examples, neighbours = evidence.examples(store, entry), evidence.neighbours(store, entry)
    except (ValueError, TypeError):
        examples, neighbours = [], []
    if not examples and not neighbours:
        st.subheader("Examples from images of your own", anchor=False)
        st.markdown(":gray[None were looked for yet. This finds what in a folder of images excites each channel:]")
        store_folder = str(settings.store_folder())
        words = ["fvfast", "examples", entry.model, entry.layer, "FOLDER", "--store", store_folder]
        st.code(shlex.join(words), language="bash")
        return
    if examples:
        st.subheader("What excites it in your images", anchor=False)
        with st.container(horizontal=True):
            for example in examples:
                picture = library.picture(store, example.image)
                if picture:
                    st.image(picture, caption=figure(example.activation), width=104)
    if neighbours:
        _neighbours(store, entry, neighbours)


def _neighbours(store: Store, entry: Entry, neighbours: list[evidence.Neighbour]) -> None:
    tiles = []
    for near in neighbours:
        found = library.rows(store, Query(model=entry.model, layer=entry.layer, channel=near.other)).entries
        same = [one for one in found if evidence.whole_channel(one) == near.other]  # no neuron of it
        best = next((one for one in same if one.recipe.get("name") == entry.recipe.get("name")), None)
        best = best or next(iter(same), None)
        if best:
            tiles.append(dataclasses.replace(tile(store, best), caption=f"cosine {near.cosine:.2f}"))
    if tiles:
        st.subheader("Features that fire like it", anchor=False)
        _open(components.grid(tiles, [], key="neighbours", selectable=False))


def _open(result: Any) -> None:
    if result.open:
        navigation.go("feature", key=result.open)
