"""The pages, by name, and the links between them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import streamlit as st

if TYPE_CHECKING:
    from streamlit.navigation.page import StreamlitPage

# name (the path of its address): title, icon, heading in the sidebar
PAGES = {
    "overview": ("Overview", ":material/space_dashboard:", ""),
    "render": ("Render", ":material/brush:", "Make"),
    "dream": ("DeepDream", ":material/nights_stay:", "Make"),
    "gallery": ("Gallery", ":material/grid_view:", "Explore"),
    "feature": ("Feature", ":material/image_search:", "Explore"),
    "compare": ("Compare", ":material/compare:", "Explore"),
    "speed": ("Speed and quality", ":material/speed:", "Measure"),
}


def page(name: str, first: bool = False) -> StreamlitPage:
    """The page called `name`; first: whether it is the one at the root."""
    from fvfast_dashboard import pages

    title, icon, _ = PAGES[name]
    return st.Page(pages.SHOW[name], title=title, icon=icon, url_path=name, default=first)


def menu(first: str = "overview") -> dict[str, list[StreamlitPage]]:
    """All pages under their headings."""
    found: dict[str, list[StreamlitPage]] = {}
    for name, (_, _, heading) in PAGES.items():
        found.setdefault(heading, []).append(page(name, name == first))
    return found


def link(name: str, label: str, icon: str | None = None, **query: str) -> None:
    """A link to a page, with query parameters."""
    st.page_link(page(name), label=label, icon=icon, query_params=query or None)


def go(name: str, **query: str) -> None:
    """Leave for another page."""
    st.switch_page(page(name), query_params=query or None)
