"""An activation atlas of the bundled network, over crops of the photographs that scikit-image and scikit-learn bring.

    python -m bench.activation_atlas [--grid 8] [--crops 100] [--size 96] [--steps 48]

Makes docs/images/activation-atlas.webp and the figures in docs/activation-atlas.md. Both libraries are only looked
through for their photographs; their code is not run.
"""

from __future__ import annotations

import argparse
import importlib.util
import tempfile
from pathlib import Path

import PIL.Image
import torch

import fvfast
from bench.report import DOCS, keep

LAYER = "_blocks.10"
# What people photograph: no drawings, no scans of paper.
PHOTOGRAPHS = {
    "skimage": (
        "astronaut.png",
        "chelsea.png",
        "coffee.png",
        "rocket.jpg",
        "motorcycle_left.png",
        "hubble_deep_field.jpg",
    ),
    "sklearn": ("china.jpg", "flower.jpg"),
}
PLACES = {"skimage": "data", "sklearn": "datasets/images"}


def photographs() -> list[Path]:
    """The photographs that are installed. Leaves with a sentence where a library is missing."""
    found: list[Path] = []
    for package, names in PHOTOGRAPHS.items():
        spec = importlib.util.find_spec(package)
        if spec is None or spec.origin is None:
            raise SystemExit(f"needs the photographs in {package}: pip install scikit-image scikit-learn")
        found += [Path(spec.origin).parent / PLACES[package] / name for name in names]
    return found


def crops(folder: Path, count: int) -> int:
    """`count` random squares of every photograph, a quarter to three quarters as wide as its shorter side."""
    generator = torch.Generator().manual_seed(0)
    made = 0
    for path in photographs():
        picture = PIL.Image.open(path).convert("RGB")
        (folder / path.stem).mkdir()
        for number in range(count):
            draw = torch.rand(3, generator=generator).tolist()
            side = round(min(picture.size) * (0.25 + draw[0] / 2))
            left, top = (round(part * (whole - side)) for part, whole in zip(draw[1:], picture.size, strict=True))
            picture.crop((left, top, left + side, top + side)).save(folder / path.stem / f"{number:04d}.png")
            made += 1
    return made


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--grid", type=int, default=8)
    parser.add_argument("--crops", type=int, default=100, help="of each photograph")
    parser.add_argument("--size", type=int, default=96, help="of an icon, px")
    parser.add_argument("--steps", type=int, default=48)
    parser.add_argument("--out", type=Path, help="a folder in which an interrupted run is gone on with")
    chosen = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        work = chosen.out or Path(temporary)
        folder = work / "images"
        if not folder.is_dir():
            folder.mkdir(parents=True)
            crops(folder, chosen.crops)
        atlas = fvfast.activation_atlas(
            "efficientnet_lite0",
            LAYER,
            folder,
            out=work / "atlas",
            grid=chosen.grid,
            size=chosen.size,
            steps=chosen.steps,
            progress=tell,
        )
        with PIL.Image.open(atlas.picture) as picture:
            picture.save(DOCS / "images" / "activation-atlas.webp", quality=85)
    assert atlas.vectors is not None
    row = [str(len(found)) for found in (atlas.vectors.names, atlas.vectors.values, atlas.cells)]
    keep("activation_atlas", "python -m bench.activation_atlas", ["images", "activations", "cells"], [row])


def tell(what: str, done: float, total: int) -> None:
    print(f"\r{done:.0f}/{total} {what}   ", end="", flush=True)


if __name__ == "__main__":
    main()
