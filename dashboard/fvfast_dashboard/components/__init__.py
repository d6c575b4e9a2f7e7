"""The two parts of the dashboard that run in the browser: the gallery's grid, and the wipe between two images."""

from __future__ import annotations

import base64
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import streamlit as st
from streamlit.components.v2 import component

_HERE = Path(__file__).parent


def _component(name: str) -> Any:
    html, css, js = ((_HERE / f"{name}.{kind}").read_text() for kind in ("html", "css", "js"))
    return component(f"fvfast_{name}", html=html, css=css, js=js)


_grid, _wipe = _component("grid"), _component("wipe")


@dataclass(frozen=True)
class Tile:
    """One feature of a grid: its key, a title, a fainter caption, and its picture as a `data:` address or empty."""

    key: str
    title: str
    caption: str
    source: str


def data_url(data: bytes | None) -> str:
    """Bytes of a PNG or WebP as a `data:` address; empty for none."""
    if not data:
        return ""
    kind = "png" if data.startswith(b"\x89PNG") else "webp"
    return f"data:image/{kind};base64,{base64.b64encode(data).decode()}"


def grid(
    tiles: Sequence[Tile],
    selected: Sequence[str],
    *,
    key: str,
    on_open: Callable[[], None] | None = None,
    on_select: Callable[[], None] | None = None,
    selectable: bool = True,
    width: int = 112,
) -> Any:
    """Tiles in as many columns as there is room for, their pictures decoded as they come into sight.

    The result's `open` is the key of a tile that was clicked in this run; `ticked(key)` says whose boxes are ticked.
    A tile is a link too, so that a browser can open it in a new tab. width: of a tile, in pixels.
    """
    return _grid(
        key=key,
        data={
            "tiles": [asdict(tile) for tile in tiles],
            "selected": list(selected),
            "turn": _ticks(key)["turn"],
            "selectable": selectable,
            "width": width,
        },
        default={"ticks": {"keys": list(selected), "turn": 0}},
        on_open_change=on_open or (lambda: None),
        on_ticks_change=on_select or (lambda: None),
    )


def ticked(key: str) -> list[str]:
    """The keys of the tiles whose boxes are ticked, in the grid that has this key."""
    return list(_ticks(key)["keys"])


def _ticks(key: str) -> dict[str, Any]:
    """What a grid has said last: keys, and the turn: how many ticks it knew of by then."""
    said = getattr(st.session_state.get(key), "ticks", None)
    return said or {"keys": [], "turn": 0}


def wipe(left: bytes, right: bytes, labels: tuple[str, str], *, key: str) -> None:
    """Two images on top of one another, and a line between them to drag, or to move with the arrow keys."""
    _wipe(key=key, data={"left": data_url(left), "right": data_url(right), "labels": list(labels)})
