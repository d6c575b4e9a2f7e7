"""Renders that no network made, for stores to keep."""

import hashlib
from dataclasses import replace
from pathlib import Path

import numpy as np
import PIL.Image

from fvfast import blobs
from fvfast.store import Entry, Made


def made(number: int, layer: str = "deep", depth: int = 3, model: str = "tiny", recipe: str = "default") -> Made:
    others = sum(f"{model} {layer} {recipe}".encode()) * 37
    picture = PIL.Image.new("RGB", (32, 24), (number * 20 % 256, others % 256, 128))
    data, small = blobs.encode(picture, "png"), blobs.thumbnail(picture)
    entry = Entry(
        key=hashlib.sha256(f"{model} {layer} {number} {recipe}".encode()).hexdigest(),
        model=model,
        weights="none",
        weights_digest="0" * 64,
        layer=layer,
        depth=depth,
        channel=number,
        target=f"{layer}:{number}",
        recipe={"name": recipe, "steps": 4, "views": {"zoom": [0.9, 1.1]}},
        seed=0,
        size=32,
        steps=4,
        objective_start=-0.5,
        objective_end=number + 0.25,
        seconds=0.125,
        device="cpu",
        path="reference",
        dtype="float32",
        version="0.1.0",
        created="2025-06-01T12:00:00+00:00",
        note="",
        image=blobs.address("images", data, "png"),
        thumbnail=blobs.address("thumbnails", small, "webp"),
    )
    return Made(entry, data, small)


HISTORY = (-0.5, 1.25, float("nan"), 3.0)


def traced(number: int) -> Made:
    """The same with a history of four steps and snapshots after two of them."""
    shades = {step: PIL.Image.new("RGB", (32, 24), (number, step * 60, 0)) for step in (1, 3)}
    stages = tuple((step, blobs.snapshot(shade)) for step, shade in shades.items())
    return replace(made(number), history=np.array(HISTORY, "<f4").tobytes(), snapshots=stages)


def tree(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
