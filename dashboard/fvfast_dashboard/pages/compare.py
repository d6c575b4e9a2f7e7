"""The page "compare"."""

from __future__ import annotations

from fvfast_dashboard import widgets


def show() -> None:
    widgets.title("compare")
