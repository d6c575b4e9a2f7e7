"""The command line of activation atlases: `fvfast activation-atlas`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from fvfast.cli_atlas import BAD_INPUT, INTERRUPTED, Board, Weights
from fvfast.cli_json import Json, tell
from fvfast.cli_layouts import Layout, laid_out


def activation_atlas(
    model: Annotated[str, typer.Argument(help="As for `render`.")],
    layer: Annotated[str, typer.Argument(help="One layer.")],
    folder: Annotated[Path, typer.Argument(help="Folder of images, with all that is below it.")],
    out: Annotated[Path, typer.Option(metavar="DIR", help="Folder for the picture, the JSON and the icons.")] = Path(
        "activation-atlas"
    ),
    grid: Annotated[int, typer.Option(help="Cells along each side of the map.")] = 20,
    positions: Annotated[int, typer.Option(help="Random places in each image.")] = 1,
    average: Annotated[bool, typer.Option("--average", help="The mean of all places in each image instead.")] = False,
    whiten: Annotated[bool, typer.Option("--whiten", help="Discount what all activations have in common.")] = False,
    reduce: Annotated[str, typer.Option(help="umap (pip install 'fvfast[umap]') or pca.")] = "umap",
    least: Annotated[int, typer.Option(help="Activations that a cell needs to be rendered.")] = 1,
    size: Annotated[int, typer.Option(help="Width and height of an icon, 16-1024 px.")] = 112,
    steps: Annotated[int, typer.Option(help="Optimisation steps of an icon.")] = 96,
    seed: Annotated[int, typer.Option(help="Of the places, the map and the icons.")] = 0,
    batch: Annotated[int | None, typer.Option(help="Icons in one tensor (default: what suits the device).")] = None,
    device: Annotated[str | None, typer.Option(help="cpu, cuda, cuda:1, ... (default: a GPU if there is one).")] = None,
    dtype: Annotated[str | None, typer.Option(help="float32, bfloat16 or float16.")] = None,
    weights: Weights = "default",
    layout: Layout = None,
    as_json: Json = False,
) -> None:
    """Map a layer's activations over your own images, and render each cell of the map. The same command goes on."""
    from fvfast.activation_atlases import activation_atlas as run

    laid, weights = laid_out(model, weights, layout)
    with Board(quiet=as_json, unit="images") as board:
        atlas = run(
            laid,
            layer,
            folder,
            out=out,
            grid=grid,
            positions=positions,
            average=average,
            whiten=whiten,
            reduce=reduce,
            least=least,
            size=size,
            steps=steps,
            seed=seed,
            batch=batch,
            device=device,
            dtype=dtype,
            weights=weights,
            progress=board.count,
            stop=board.stopped,
            notify=board.notify,
        )
    for sentence in atlas.failures:
        print(f"fvfast: {sentence}", file=sys.stderr)
    there = atlas.rendered + atlas.skipped
    count = len(atlas.vectors.values) if atlas.vectors else 0
    if as_json:
        document = {
            "picture": str(atlas.picture),
            "document": str(atlas.document),
            "vectors": count,
            "cells": len(atlas.cells),
            "rendered": atlas.rendered,
            "skipped": atlas.skipped,
            "failures": atlas.failures,
            "dtype": atlas.dtype,
            "dtype_why": atlas.dtype_why,
            "seconds": round(atlas.seconds, 3),
            "interrupted": atlas.interrupted,
        }
        tell(document)
    elif atlas.cells:
        rate = f" in {atlas.seconds:.1f} s" if atlas.rendered else ""
        print(f"{count} activations in {len(atlas.cells)} cells")
        print(f"{atlas.rendered} cells rendered{rate}; {atlas.skipped} were there before")
        print(f"{atlas.picture} and {atlas.document}")
    if atlas.interrupted:
        left = f"{len(atlas.cells) - there} cells are left" if atlas.cells else "what was seen is kept"
        print(f"fvfast: interrupted; {left}, the same command goes on", file=sys.stderr)
        raise typer.Exit(INTERRUPTED)
    if there < len(atlas.cells):
        raise typer.Exit(BAD_INPUT)
