"""The command line that looks at what there is: `fvfast layers`, `models` and `doctor`."""

from __future__ import annotations

from typing import Annotated

import typer

from fvfast.cli_json import Json, tell
from fvfast.cli_layouts import Layout, laid_out
from fvfast.errors import FvfastError
from fvfast.tables import print_columns

Weights = Annotated[str, typer.Option(help="none (random), default, or a FILE (safetensors or plain checkpoint).")]


def layers(
    model: Annotated[str, typer.Argument(help="As for `render`.")] = "efficientnet_lite0",
    size: Annotated[int | None, typer.Option(help="Input size in px (default: the network's own).")] = None,
    weights: Weights = "none",
    layout: Layout = None,
    as_json: Json = False,
) -> None:
    """List what a target may name: every layer's name, kind, channels and size, in the order of the forward pass."""
    import torch

    from fvfast.models import load
    from fvfast.pristine import pristine
    from fvfast.tracing import input_size

    loaded = load(*laid_out(model, weights, layout))
    chosen = loaded.size if size is None else size
    if chosen < 1:
        raise FvfastError(f"size must be 1 or more, not {chosen}")
    module = pristine(loaded.module, torch.device("cpu"), loaded.inputs)
    seen, found = input_size(module, chosen, loaded.size, loaded.name, loaded.channels, loaded.layouts)
    if as_json:
        rows = [
            {"name": v.name, "kind": v.kind, "channels": v.channels, "height": v.height, "width": v.width}
            for v in found.values()
        ]
        tell({"model": loaded.name, "size": seen, "layers": rows})
        return
    rows = [(v.name, v.kind, str(v.channels), f"{v.height}x{v.width}" if v.height else "") for v in found.values()]
    print_columns(("layer", "kind", "channels", "grid"), rows, right=(2, 3))


def models(
    pattern: Annotated[str, typer.Argument(metavar="[FILTER]", help="Only names that contain this.")] = "",
    as_json: Json = False,
) -> None:
    """List the models that can be named, and where their weights are."""
    from fvfast.models import names

    found = [row for row in names() if pattern.lower() in row["name"].lower()]
    if as_json:
        tell({"models": found})
        return
    if not found:
        raise FvfastError(f"no model's name contains {pattern!r}")
    print_columns(("model", "source", "weights"), [(r["name"], r["source"], r["weights"]) for r in found])


def doctor(as_json: Json = False) -> None:
    """Show versions, the device, and which path will run and why."""
    from fvfast.doctor import report

    found = report()
    if as_json:
        tell(found)
        return
    print_columns(None, [(key, str(value)) for key, value in found.items()])
