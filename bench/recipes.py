"""The recipes side by side on 24 features: how far they get, and how they look.

    python -m bench.recipes              all recipes (about a quarter of an hour on two cores)
    python -m bench.recipes default      one of them; the others keep the figures they have

Figures go to bench/results/recipes.json with the stamp of their machine, the table to docs/recipes.md, a sheet a recipe
to docs/images.
"""

from __future__ import annotations

import argparse
from typing import Any

import fvfast
from bench import record
from bench.report import DOCS, redraw_all
from bench.tables import table
from fvfast import files, quality
from fvfast.errors import did_you_mean
from fvfast.recipes import RECIPES

CHANNELS = {2: "2", 4: "1,9", 7: "4,10,11", 9: "6", 10: "3,9", 12: "7,10,11", 14: "4,9,11", 15: "3"}
CLASSES = ("goldfish", "ostrich", "zebra", "jack-o'-lantern", "cheeseburger", "bell pepper", "pizza", "daisy")
TARGETS = [f"_blocks.{block}:{channels}" for block, channels in CHANNELS.items()] + [f"logits:{c}" for c in CLASSES]


HEADER = ("recipe", "px", "steps", "channels", "classes", "contrast", "colour", "slope", "HF")


def measure(name: str) -> list[str]:
    """Render every target by a recipe; its sheet, and its row of the table."""
    result = fvfast.render(target=TARGETS, recipe=name)
    classes = [target.startswith("logits") for target in result.targets]
    images = result.images
    captions = [f"{value:.1f}" for value in result.objective.tolist()]
    sheet = files.sheet([files.to_pil(image) for image in images], result.targets, captions, columns=8, tile=160)
    sheet.save(DOCS / "images" / f"recipe-{name}.webp", quality=85)
    return [
        name,
        f"{result.size}",
        "/".join(dict.fromkeys(str(recipe.steps) for recipe in result.recipes)),
        f"{result.objective[[i for i, c in enumerate(classes) if not c]].mean():.1f}",
        f"{result.objective[[i for i, c in enumerate(classes) if c]].mean():.1f}",
        f"{quality.contrast(images).mean():.3f}",
        f"{quality.colourfulness(images).mean():.3f}",
        f"{quality.spectrum_slope(images).mean():.2f}",
        f"{quality.high_frequency(images).mean():.3f}",
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", help=f"which of {', '.join(RECIPES)} (default: all)")
    names = parser.parse_args().names or list(RECIPES)
    for name in names:
        if name not in RECIPES:
            parser.error(f"unknown recipe {name!r}{did_you_mean(name, RECIPES)}")
    stored = record.load("recipes")
    found = {row["cells"][0]: row for row in stored["rows"]} if stored else {}
    for name in names:
        found[name] = {"cells": measure(name), "machine": record.machine()}
        print(found[name]["cells"], flush=True)
        record.save("recipes", "python -m bench.recipes", [found[name] for name in RECIPES if name in found])
    redraw_all("recipes")


def words(stored: dict[str, Any]) -> str:
    """What docs/recipes.md shows of it. Each recipe has the stamp of its own run."""
    stamps = dict.fromkeys(record.line(row["machine"]) for row in stored["rows"])
    text = table(HEADER, [row["cells"] for row in stored["rows"]])
    return f"{text}\n\nMeans over 24 features. Measured on {'; '.join(stamps)}."


if __name__ == "__main__":
    main()
