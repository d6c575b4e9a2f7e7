"""The option `--layout LAYER=AXES`: what the axes of a layer's output are, where nothing else tells."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from fvfast.errors import FvfastError

if TYPE_CHECKING:
    from fvfast.models import Model

Layout = Annotated[
    list[str] | None,
    typer.Option("--layout", metavar="LAYER=AXES", help="A layer's axes, where its output does not tell: blocks=BHWC."),
]


def laid_out(model: str | Model, weights: str, layouts: list[str] | None) -> tuple[str | Model, str]:
    """A model with these layouts, and the weights that are still to be named with it: as they are without layouts."""
    if not layouts:
        return model, weights
    from fvfast.models import load

    said: dict[str, str] = {}
    for text in layouts:
        layer, equals, axes = text.rpartition("=")
        if not equals or not layer or not axes:
            raise FvfastError(f"--layout takes LAYER=AXES such as features.1=BHWC, not {text!r}")
        said[layer] = axes
    loaded = load(model, weights) if isinstance(model, str) else model
    return load(loaded, layouts={**loaded.layouts, **said}), "default"
