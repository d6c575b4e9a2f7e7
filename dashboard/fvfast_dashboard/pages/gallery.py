"""The gallery: every render of the store, to filter, sort, search, and choose from."""

from __future__ import annotations

import math
from typing import Any

import streamlit as st

from fvfast import exports
from fvfast.store import Entry, Query, Store
from fvfast.tables import figure
from fvfast_dashboard import components, library, navigation, widgets

PAGE_SIZES = (100, 250, 500)
SORTS = {
    "Place in the network": "layer",
    "Objective, highest first": "highest",
    "Objective, lowest first": "lowest",
    "Newest first": "newest",
}
KEPT: dict[str, Any] = {"persist_state": "session"}  # for whoever comes back from a feature
ALL = "All"
EXPORTED = 2000  # renders in one download: an archive is made in memory


def show() -> None:
    widgets.title("Gallery", "Every feature in the store. Open one, or tick several to compare or to take along.")
    store = library.open_store()
    total = store.count() if store else 0
    if store is None or not total:
        widgets.empty_store()
        return
    query = _filters(store)
    found = store.count(query)
    bar = st.container()
    if found:
        _tiles(store, query, found)
    else:
        st.info("No feature is like this. Take a filter away.", icon=":material/filter_alt_off:")
    with bar:
        _bar(store, query, found, total)


# Filters ---------------------------------------------------------------------------------------------------


def _filters(store: Store) -> Query:
    first, second, third, fourth = st.columns([1.2, 1.4, 1.2, 1.2])
    layers = store.layers()
    models = list(dict.fromkeys(str(row["model"]) for row in layers))
    model = first.selectbox("Model", [ALL, *models], key="gallery model", **KEPT)
    names = list(dict.fromkeys(str(row["layer"]) for row in layers if model in (ALL, row["model"])))
    layer = second.selectbox("Layer", [ALL, *names], key="gallery layer", **KEPT)
    recipes = third.multiselect("Recipes", store.recipes(), key="gallery recipes", placeholder=ALL, **KEPT)
    text = fourth.text_input(
        "Search", key="gallery text", placeholder="Part of a target", icon=":material/search:", **KEPT
    )
    query = Query(
        model=None if model == ALL else model,
        layer=None if layer == ALL else layer,
        recipe=tuple(recipes) or None,
        text=(text or "").strip() or None,
    )
    left, right = st.columns([2.6, 2.4], vertical_alignment="bottom")
    with left:
        bounds = _objective_range(store, query)
    sort = right.selectbox("Sort by", list(SORTS), key="gallery sort", **KEPT)
    return Query(query.model, query.layer, None, query.recipe, query.text, objective=bounds, sort=SORTS[sort])


def _objective_range(store: Store, query: Query) -> tuple[float, float] | None:
    """The final objectives that the slider leaves; None for all of them, those that are not numbers too."""
    ends = []
    for sort in ("lowest", "highest"):
        end = library.rows(store, Query(query.model, query.layer, None, query.recipe, query.text, sort=sort), 1).entries
        ends += [entry.objective_end for entry in end if math.isfinite(entry.objective_end)]
    if len(ends) < 2 or not ends[0] < ends[1]:
        st.slider("Final objective", 0.0, 1.0, (0.0, 1.0), disabled=True, key="no range")
        return None
    low, high = math.floor(ends[0] * 100) / 100, math.ceil(ends[1] * 100) / 100
    # A key for each range: ends that were set for other renders mean nothing for these.
    chosen = st.slider("Final objective", low, high, (low, high), step=0.01, key=f"gallery range {low} {high}", **KEPT)
    return None if chosen == (low, high) else chosen


# Tiles -----------------------------------------------------------------------------------------------------


def _tiles(store: Store, query: Query, found: int) -> None:
    """One page of tiles, and the buttons to the others."""
    slot = st.container()
    with st.container(horizontal=True, vertical_alignment="bottom", horizontal_alignment="distribute"):
        size = st.segmented_control(
            "On a page", PAGE_SIZES, default=PAGE_SIZES[0], key="gallery size", required=True, **KEPT
        )
        count = math.ceil(found / size)
        number = min(count, st.pagination(count, key="gallery page", **KEPT)) if count > 1 else 1
    shown = library.rows(store, query, size, (number - 1) * size)
    here = {entry.key for entry in shown.entries}
    selection = st.session_state.setdefault("selection", [])

    def select() -> None:
        ticked = components.ticked("gallery grid")
        elsewhere = [key for key in selection if key not in here]
        st.session_state["selection"] = elsewhere + [key for key in ticked if key in here]

    with slot:
        widgets.damaged_rows(shown)
        ticked = [key for key in selection if key in here]
        result = components.grid(
            [tile(store, entry) for entry in shown.entries], ticked, key="gallery grid", on_select=select
        )
    if result.open in here:
        navigation.go("feature", key=result.open)


def tile(store: Store, entry: Entry, title: str | None = None) -> components.Tile:
    """An entry as a tile of a grid."""
    caption = f"{figure(entry.objective_end)} · {entry.recipe.get('name', '?')}"
    caption += f" · seed {entry.seed}" if entry.seed else ""
    picture = library.picture(store, entry.thumbnail)
    return components.Tile(entry.key, title or entry.target, caption, components.data_url(picture))


# Selection -------------------------------------------------------------------------------------------------


def _bar(store: Store, query: Query, found: int, total: int) -> None:
    """How many there are, how many are ticked, and what to do with these."""
    keys = tuple(st.session_state.get("selection", ()))
    chosen = library.rows(store, Query(keys=keys)).entries if keys else []
    text = f"**{found:,}** of {total:,} renders" if found < total else f"**{total:,}** renders"
    with st.container(horizontal=True, vertical_alignment="center"):
        st.markdown(text + (f" · **{len(chosen)}** selected" if chosen else ""))
        if st.button(
            "Compare", icon=":material/compare:", disabled=len(chosen) != 2, help="Tick two features to compare them."
        ):
            navigation.go("compare", a=chosen[0].key, b=chosen[1].key)
        st.download_button(
            "ZIP",
            lambda: exports.to_zip(store, chosen[:EXPORTED]),
            "fvfast-features.zip",
            "application/zip",
            icon=":material/folder_zip:",
            disabled=not chosen,
            help="The selected images, with a manifest.",
            on_click="ignore",
        )
        st.download_button(
            "CSV",
            lambda: exports.to_csv(chosen or library.rows(store, query).entries),
            "fvfast-features.csv",
            "text/csv",
            icon=":material/table:",
            help="Every field of the selected renders, or of all that the filters leave.",
            on_click="ignore",
        )
        st.button("Clear", icon=":material/close:", disabled=not chosen, on_click=_clear)


def _clear() -> None:
    st.session_state["selection"] = []
