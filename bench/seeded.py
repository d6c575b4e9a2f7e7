"""What layers keep of a photograph: inversions and caricatures from shallow to deep, and accentuated features.

    python -m bench.seeded [--photo FILE]         (about ten minutes on two cores)

Writes docs/images/seeded.webp and docs/images/accentuation.webp, and docs/seeded.md's table. The photograph is
scikit-image's cat where none is given.
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path
from typing import Any

import fvfast
from bench import record
from bench.classics import find_photograph
from bench.report import DOCS, redraw_all
from bench.tables import table
from fvfast import files
from fvfast.recipes import DEFAULT
from fvfast.views import Views

COMMAND = "python -m bench.seeded"
SIZE = 160  # pixels
LAYERS = ["_blocks.1", "_blocks.5", "_blocks.9", "_blocks.13"]
# Small shifts only: the whole picture should be matched, where it stands.
MATCHING = replace(DEFAULT, name="matching", steps=128, lr=0.05, views=Views(jitter=4))
ACCENTUATION = replace(DEFAULT, name="accentuation", steps=96, lr=0.05)
FEATURES = ["_blocks.7:4", "_blocks.10:9", "_blocks.12:7", "logits:tiger cat"]
NEAR = "_blocks.4"


def layers(photo: Path) -> list[dict[str, Any]]:
    """The photograph inverted from every layer, and caricatured by it."""
    targets = [f"{kind}({layer}, {photo})" for kind in ("inversion", "caricature") for layer in LAYERS]
    result = fvfast.render(target=targets, recipe=MATCHING, size=SIZE)
    names = [f"{kind} {layer}" for kind in ("inversion", "caricature") for layer in LAYERS]
    ends = result.objective.tolist()
    page = files.sheet(result.pictures(), names, [f"{v:.3f}" for v in ends], columns=len(LAYERS), tile=SIZE)
    page.save(DOCS / "images" / "seeded.webp", quality=85)
    half = len(LAYERS)
    return [{"layer": layer, "inversion": ends[i], "caricature": ends[half + i]} for i, layer in enumerate(LAYERS)]


def features(photo: Path) -> list[dict[str, Any]]:
    """Features accentuated in the photograph, freely and near to it."""
    pairs = [(target, weight) for weight in (0.0, 1.0) for target in FEATURES]
    targets = [f"accentuation({target}, {NEAR}, {weight:g}, {photo})" for target, weight in pairs]
    result = fvfast.render(target=targets, recipe=ACCENTUATION, size=SIZE)
    starts, ends = result.objective_start.tolist(), result.objective.tolist()
    titles = [f"{target}, weight {weight:g}" for target, weight in pairs]
    captions = [f"{a:.1f} to {b:.1f}" for a, b in zip(starts, ends, strict=True)]
    page = files.sheet(result.pictures(), titles, captions, columns=len(FEATURES), tile=SIZE)
    page.save(DOCS / "images" / "accentuation.webp", quality=85)
    return [
        {"target": target, "weight": weight, "start": a, "end": b}
        for (target, weight), a, b in zip(pairs, starts, ends, strict=True)
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--photo", type=Path, help="a photograph (default: scikit-image's cat)")
    photo = find_photograph(parser.parse_args().photo)
    found = layers(photo)
    record.save("seeded", COMMAND, found, features=features(photo))
    redraw_all("seeded")


def words(found: dict[str, Any]) -> str:
    """The table in the documentation, from what was measured."""
    rows = [[f"`{r['layer']}`", f"{r['inversion']:.3f}", f"{r['caricature']:.2f}"] for r in found["rows"]]
    return f"{table(['layer', 'inversion', 'caricature'], rows)}\n\nMeasured on {record.line(found['machine'])}."


if __name__ == "__main__":
    main()
