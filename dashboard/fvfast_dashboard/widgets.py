"""What several pages share: their heads, boxes for what is missing, a machine's stamp."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import streamlit as st

from fvfast_dashboard import library, navigation, settings

LOGO = Path(__file__).parent / "logo.svg"
_STYLE = Path(__file__).parent / "style.css"


def frame() -> None:
    """What surrounds every page: the style, and in the sidebar which store is shown."""
    st.html(_STYLE)
    st.logo(str(LOGO), size="large")
    with st.sidebar:
        st.caption(f"Store: `{settings.store_folder()}`")


def title(text: str, lead: str = "") -> None:
    """A page's head: its title, and a sentence on what it is for."""
    st.title(text, anchor=False)
    if lead:
        st.markdown(f":gray[{lead}]")


def plain(text: str) -> str:
    """Text from a store or a file, so that Streamlit's Markdown shows it as it is."""
    return re.sub(r"([\\`*_\[\]$~<>|#])", r"\\\1", text)


def problem(sentence: str) -> None:
    """A box that says what is wrong, in place of a traceback."""
    st.error(f"{sentence[:1].upper()}{sentence[1:]}.", icon=":material/error:")


def empty_store() -> None:
    """What a page that needs renders shows while there are none."""
    folder = settings.store_folder()
    with st.container(border=True):
        st.subheader("Nothing rendered yet", anchor=False)
        st.markdown(
            f"The store `{folder}` has no renders. Make some on the page **Render**, or all of a layer at once:"
        )
        st.code(f"fvfast atlas efficientnet_lite0 _blocks.10 --store {folder}", language="bash")
        navigation.link("render", "Render a feature", icon=":material/brush:")


def not_measured(what: str, command: str) -> None:
    """A box in place of a figure that no measurement has given yet."""
    with st.container(border=True):
        st.markdown(f":gray-badge[:material/hourglass_empty: not yet measured] &nbsp; {what}")
        st.code(command, language="bash")


def stamp(machine: dict[str, Any] | str | None, here: bool = False) -> None:
    """A line that says where and when figures were measured. here: whether on this machine, by this dashboard."""
    if not machine:
        return
    if isinstance(machine, dict):
        parts = [
            machine.get("device"),
            *(f"{name} {machine[name]}" for name in ("torch", "triton") if machine.get(name)),
        ]
        parts += [machine.get("date"), f"commit {machine['commit']}" if machine.get("commit") else None]
        machine = ", ".join(str(part) for part in parts if part)
    st.caption(f":material/memory: Measured {'here: ' if here else 'on '}{machine}")


def damaged_rows(rows: library.Rows) -> None:
    """A warning where rows of the store cannot be read."""
    if rows.damaged:
        many = rows.damaged > 1
        st.warning(
            f"{rows.damaged} render{'s' if many else ''} of this store cannot be read and {'are' if many else 'is'} "
            f"left out: `fvfast store verify --store {settings.store_folder()}` tells more.",
            icon=":material/report:",
        )
