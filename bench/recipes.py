"""The recipes side by side on 24 features: what they cost, how far they get, and how they look.

Writes docs/recipes.md's table and one sheet a recipe.
"""

from __future__ import annotations

import fvfast
from bench.report import DOCS, stamp, table, write_block
from fvfast import files, quality
from fvfast.recipes import RECIPES

CHANNELS = {2: "2", 4: "1,9", 7: "4,10,11", 9: "6", 10: "3,9", 12: "7,10,11", 14: "4,9,11", 15: "3"}
CLASSES = ("goldfish", "ostrich", "zebra", "jack-o'-lantern", "cheeseburger", "bell pepper", "pizza", "daisy")
TARGETS = [f"_blocks.{block}:{channels}" for block, channels in CHANNELS.items()] + [f"logits:{c}" for c in CLASSES]


def main() -> None:
    rows: list[list[str]] = []
    count = 0
    for name in RECIPES:
        result = fvfast.render(target=TARGETS, recipe=name)
        count = len(result)
        classes = [target.startswith("logits") for target in result.targets]
        channel_mean = result.objective[[i for i, c in enumerate(classes) if not c]].mean()
        class_mean = result.objective[[i for i, c in enumerate(classes) if c]].mean()
        images = result.images
        rows.append(
            [
                name,
                f"{result.size}",
                "/".join(dict.fromkeys(str(recipe.steps) for recipe in result.recipes)),
                f"{result.seconds / len(result):.1f}",
                f"{channel_mean:.1f}",
                f"{class_mean:.1f}",
                f"{quality.contrast(images).mean():.3f}",
                f"{quality.colourfulness(images).mean():.3f}",
                f"{quality.spectrum_slope(images).mean():.2f}",
                f"{quality.high_frequency(images).mean():.3f}",
            ]
        )
        print(rows[-1], flush=True)
        captions = [f"{value:.1f}" for value in result.objective.tolist()]
        sheet = files.sheet([files.to_pil(image) for image in images], result.targets, captions, columns=8, tile=160)
        sheet.save(DOCS / "images" / f"recipe-{name}.webp", quality=85)
    header = ["recipe", "px", "steps", "s/image", "channels", "classes", "contrast", "colour", "slope", "HF"]
    text = f"{table(header, rows)}\n\nMeans over {count} features. Measured on {stamp()}."
    write_block(DOCS / "recipes.md", "table", text)


if __name__ == "__main__":
    main()
