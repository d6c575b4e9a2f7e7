"""The first page: what this machine is, the figures that say most, and what was rendered last."""

from __future__ import annotations

from typing import Any

import streamlit as st

from fvfast import doctor
from fvfast.store import Query, Store
from fvfast_dashboard import components, headlines, library, navigation, widgets
from fvfast_dashboard.pages.gallery import tile

LAST = 14


def show() -> None:
    widgets.title("See what a network looks for", "Feature visualisation, fast: render, explore, compare, and measure.")
    _headlines()
    _machine()
    store = library.open_store()
    if store is None or not store.count():
        widgets.empty_store()
        return
    _last(store)


def _headlines() -> None:
    for cell, headline in zip(st.columns(4), headlines.headlines(), strict=True):
        with cell.container(border=True, height="stretch"):
            # Not st.metric, which cuts a long label off.
            st.markdown(f":small[:gray[{headline.label}]]")
            if headline.value is None:
                st.markdown(f":gray-badge[not yet measured]  \n:small[`{headline.command}`]")
            else:
                st.markdown(f"## {headline.value}")
                st.caption(f"{headline.detail}  \n:material/memory: {headline.where}")


@st.cache_data(show_spinner=False)
def _report() -> dict[str, Any]:
    return doctor.report()


def _machine() -> None:
    report = _report()
    path = {"reference": "PyTorch reference", "triton": "fused Triton kernels"}.get(report["path"], report["path"])
    st.subheader("This machine", anchor=False)
    with st.container(border=True):
        first, second = st.columns([1, 1.6], gap="large")
        first.markdown(f"**{path}** path  \n:gray[{report['why']}]")
        device = report["device"] if report["device"] != "cpu" else "CPU"
        facts = [f"**{device}**, {report['at once']}", f"torch {report['torch']}", f"fvfast {report['fvfast']}"]
        facts += [f"triton {report['triton']}"] if report["triton"] != "not installed" else []
        second.markdown(" · ".join(facts) + f"  \n:gray[Python {report['python']}, {report['platform']}]")


def _last(store: Store) -> None:
    words, link = st.columns([4, 1], vertical_alignment="bottom")
    words.subheader("Rendered last", anchor=False)
    with link:
        navigation.link("gallery", f"All {store.count():,} renders", icon=":material/grid_view:")
    found = library.rows(store, Query(sort="newest"), LAST)
    widgets.damaged_rows(found)
    result = components.grid([tile(store, e) for e in found.entries], [], key="last", selectable=False, width=128)
    if result.open:
        navigation.go("feature", key=result.open)
