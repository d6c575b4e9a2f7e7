"""The app that `fvfast dashboard` starts: the frame around every page."""

from __future__ import annotations

import streamlit as st

from fvfast.errors import FvfastError
from fvfast_dashboard import navigation, widgets


def main(first: str = "overview") -> None:
    """Show the page that was asked for. first: the page at the root."""
    st.set_page_config(
        page_title="fvfast",
        page_icon=str(widgets.LOGO),
        layout="wide",
        menu_items={"About": "**fvfast**: feature visualisation, fast."},
    )
    chosen = st.navigation(navigation.menu(first))
    widgets.frame()
    try:
        chosen.run()
    except FvfastError as error:
        widgets.problem(str(error))
