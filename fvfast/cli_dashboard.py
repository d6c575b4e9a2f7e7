"""The command line of the dashboard: `fvfast dashboard`."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Annotated

import typer

from fvfast.errors import FvfastError

NEEDED = ("streamlit", "altair", "plotly")


def dashboard(
    store: Annotated[Path, typer.Option("--store", metavar="DIR", help="The store to show and render into.")] = Path(
        "atlas"
    ),
    port: Annotated[int, typer.Option(help="Port to listen on; 0 for any that is free.", min=0, max=65535)] = 8501,
    browser: Annotated[bool, typer.Option("--browser/--no-browser", help="Open a browser.")] = True,
    address: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    results: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Measured results (default: those that came with fvfast).")
    ] = None,
    allow_code: Annotated[
        bool, typer.Option("--allow-code", help="Let pages name Python modules and weights files.")
    ] = False,
) -> None:
    """Explore features in the browser: render, look, compare; on this machine only, unless told otherwise."""
    missing = [name for name in NEEDED if importlib.util.find_spec(name) is None]
    if missing:
        raise FvfastError(f"the dashboard needs {', '.join(missing)}: pip install 'fvfast[dashboard]'")
    from fvfast_dashboard.server import serve

    serve(store, results, address, port, browser, allow_code)
