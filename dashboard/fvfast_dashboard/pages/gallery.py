"""The gallery: every render of the store, to filter, sort, search, and choose from."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import streamlit as st

from fvfast import exports
from fvfast.store import Entry, Store
from fvfast.tables import figure
from fvfast_dashboard import components, library, navigation, widgets

PAGE_SIZES = (100, 250, 500)
KEPT: dict[str, Any] = {"persist_state": "session"}  # for whoever comes back from a feature
SORTS: dict[str, tuple[Callable[[Entry], Any] | None, bool]] = {  # key, whether the largest comes first
    "Place in the network": (None, False),
    "Objective, highest first": (lambda entry: entry.objective_end, True),
    "Objective, lowest first": (lambda entry: entry.objective_end, False),
    "Gain over the start": (lambda entry: entry.objective_end - entry.objective_start, True),
    "Newest first": (lambda entry: entry.created, True),
}


def show() -> None:
    widgets.title("Gallery", "Every feature in the store. Open one, or tick several to compare or to take along.")
    store = library.open_store()
    listing = library.listing(store) if store else library.Listing(())
    if store is None or not listing.entries:
        widgets.damaged_rows(listing)
        widgets.empty_store()
        return
    widgets.damaged_rows(listing)
    found = _ordered(_filtered(listing.entries))
    _bar(store, listing, found)
    if not found:
        st.info("No feature is like this. Take a filter away.", icon=":material/filter_alt_off:")
        return
    _pages(store, found)


# Filters ---------------------------------------------------------------------------------------------------


def _filtered(entries: Sequence[Entry]) -> list[Entry]:
    first, second, third, fourth = st.columns([1.1, 1.6, 1, 1.4])
    models = sorted({entry.model for entry in entries})
    model = first.selectbox("Model", ["All", *models], key="gallery model", **KEPT)
    found = [entry for entry in entries if model in ("All", entry.model)]

    layers = list(dict.fromkeys(entry.layer for entry in found))
    chosen = second.multiselect(
        "Layers", layers, key="gallery layers", **KEPT, placeholder="All, in the order of the network"
    )
    found = [entry for entry in found if not chosen or entry.layer in chosen]

    recipes = sorted({_recipe(entry) for entry in found})
    wanted = third.multiselect("Recipes", recipes, key="gallery recipes", **KEPT, placeholder="All")
    found = [entry for entry in found if not wanted or _recipe(entry) in wanted]

    text = fourth.text_input(
        "Search", key="gallery text", **KEPT, placeholder="Target, note, seed ...", icon=":material/search:"
    )
    return _within(_matching(found, text))


def _matching(entries: list[Entry], text: str) -> list[Entry]:
    """Those in whose words every word of a search occurs."""
    words = text.lower().split()
    if not words:
        return entries

    def about(entry: Entry) -> str:
        return f"{entry.target} {entry.layer} {entry.model} {_recipe(entry)} seed {entry.seed} {entry.note}".lower()

    return [entry for entry in entries if all(word in about(entry) for word in words)]


def _within(entries: list[Entry]) -> list[Entry]:
    """Those whose final objective lies between the slider's ends."""
    left, right = st.columns([2.1, 3], vertical_alignment="bottom")
    left.selectbox("Sort by", list(SORTS), key="gallery sort", **KEPT)
    values = [entry.objective_end for entry in entries if math.isfinite(entry.objective_end)]
    low, high = (math.floor(min(values) * 100) / 100, math.ceil(max(values) * 100) / 100) if values else (0.0, 0.0)
    if not low < high:
        return entries
    # A key of its own for each range: ends that were set for other renders mean nothing for these.
    bottom, top = right.slider(
        "Final objective", low, high, (low, high), step=(high - low) / 200, format="%.2f", key=f"range {low} {high}"
    )
    if (bottom, top) == (low, high):
        return entries
    return [entry for entry in entries if bottom <= entry.objective_end <= top]


def _ordered(entries: list[Entry]) -> list[Entry]:
    key, largest = SORTS[st.session_state.get("gallery sort") or "Place in the network"]
    if key is None:
        return entries
    # What is not a number comes last, either way.
    numbers = [entry for entry in entries if key(entry) == key(entry)]
    others = [entry for entry in entries if key(entry) != key(entry)]
    return sorted(numbers, key=key, reverse=largest) + others


def _recipe(entry: Entry) -> str:
    return str(entry.recipe.get("name", "?"))


# Selection -------------------------------------------------------------------------------------------------


def _bar(store: Store, listing: library.Listing, found: list[Entry]) -> None:
    """How many there are, how many are ticked, and what to do with these."""
    by_key = listing.by_key()
    chosen = [by_key[key] for key in st.session_state.get("selection", ()) if key in by_key]
    words, compare, archive, table, clear = st.columns([3, 1, 1, 1, 1], vertical_alignment="center")
    total = f"**{len(found):,}** of {len(listing.entries):,}" if len(found) < len(by_key) else f"**{len(by_key):,}**"
    words.markdown(f"{total} renders" + (f" · **{len(chosen)}** selected" if chosen else ""))
    if compare.button(
        "Compare",
        icon=":material/compare:",
        disabled=len(chosen) != 2,
        help="Tick two features to compare them.",
        width="stretch",
    ):
        navigation.go("compare", a=chosen[0].key, b=chosen[1].key)
    archive.download_button(
        "ZIP",
        lambda: exports.to_zip(store, chosen),
        "fvfast-features.zip",
        "application/zip",
        icon=":material/folder_zip:",
        disabled=not chosen,
        help="The selected images, with a manifest.",
        on_click="ignore",
        width="stretch",
    )
    rows = chosen or found
    table.download_button(
        "CSV",
        lambda: exports.to_csv(rows),
        "fvfast-features.csv",
        "text/csv",
        icon=":material/table:",
        help="Every field of the selected renders, or of all that are shown.",
        on_click="ignore",
        width="stretch",
    )
    clear.button("Clear", icon=":material/close:", disabled=not chosen, on_click=_clear, width="stretch")


def _clear() -> None:
    st.session_state["selection"] = []


def _pages(store: Store, found: list[Entry]) -> None:
    """One page of tiles, and the buttons to the others."""
    slot = st.container()
    size_at, page_at = st.columns([1, 3], vertical_alignment="bottom")
    size = size_at.selectbox("On a page", PAGE_SIZES, key="gallery size", **KEPT)
    count = math.ceil(len(found) / size)
    number = 1
    if count > 1:
        with page_at:
            number = min(count, st.pagination(count, key="gallery page", **KEPT))
    shown = found[(number - 1) * size : number * size]
    tiles = [
        components.Tile(
            entry.key,
            entry.target,
            f"{figure(entry.objective_end)} · {_recipe(entry)}" + (f" · seed {entry.seed}" if entry.seed else ""),
            components.data_url(library.picture(store, entry.thumbnail)),
        )
        for entry in shown
    ]
    with slot:
        here = {entry.key for entry in shown}
        selection = st.session_state.setdefault("selection", [])

        def select() -> None:
            ticked = st.session_state["gallery grid"].selected or []
            elsewhere = [key for key in selection if key not in here]
            st.session_state["selection"] = elsewhere + [key for key in ticked if key in here]

        result = components.grid(tiles, [k for k in selection if k in here], key="gallery grid", on_select=select)
    if result.open:
        navigation.go("feature", key=result.open)
