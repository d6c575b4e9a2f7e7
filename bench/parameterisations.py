"""One row a parameterisation, one column a feature: what each makes of the same features of the bundled model.

    python -m bench.parameterisations             every row (about half an hour on two cores)
    python -m bench.parameterisations cppn        some of them; the others keep what they have
    python -m bench.parameterisations --more      the pictures of opacity, alignment and dead starts instead

Figures go to bench/results/parameterisations.json, the sheet to docs/images/parameterisations.webp, the table to
docs/parameterisations.md. The generator needs pip install 'fvfast[gan]'.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import PIL.Image

import fvfast
from bench import record
from bench.report import DOCS, redraw_all
from bench.tables import table
from fvfast import files, quality

COMMAND = "python -m bench.parameterisations"
WAYS: dict[str, dict[str, Any]] = {
    "pixel": {"recipe": "plain"},
    "fourier": {},
    "phase": {"image": "phase"},
    "pyramid": {"image": "pyramid"},
    "cppn": {"image": "cppn"},
    "generator": {"image": "generator:dcgan-faces"},
}
TARGETS = [
    "_blocks.4:1",
    "_blocks.7:11",
    "_blocks.10:9",
    "_blocks.12:7",
    "logits:goldfish",
    "logits:daisy",
    "logits:wig",
]
KEPT = DOCS / "images" / "parameterisations"
SIZE = TILE = 160  # pixels: enough to see, and half the work of the network's own size


def row(way: str) -> dict[str, Any]:
    """Render every feature by one parameterisation; its strip of pictures is kept, its figures returned."""
    result = fvfast.render(target=TARGETS, size=SIZE, **WAYS[way])
    slopes, rough = quality.spectrum_slope(result.images).tolist(), quality.high_frequency(result.images).tolist()
    strip = PIL.Image.new("RGB", (TILE * len(TARGETS), TILE))
    for i, image in enumerate(result.images):
        strip.paste(files.to_pil(image).resize((TILE, TILE), PIL.Image.Resampling.LANCZOS), (i * TILE, 0))
    KEPT.mkdir(parents=True, exist_ok=True)
    strip.save(KEPT / f"{way}.webp", quality=90)
    return {
        "way": way,
        "steps": [recipe.steps for recipe in result.recipes],
        "objectives": [round(v, 2) for v in result.objective.tolist()],
        "slopes": [round(v, 3) for v in slopes],
        "high_frequency": [round(v, 4) for v in rough],
        "seconds": round(result.seconds, 1),
        "machine": record.machine(),
    }


def write() -> None:
    """The sheet and the table, from what was measured."""
    found = record.load("parameterisations")
    assert found is not None
    rows = sorted(found["rows"], key=lambda r: list(WAYS).index(r["way"]))
    pictures, titles, captions = [], [], []
    for measured in rows:
        strip = PIL.Image.open(KEPT / f"{measured['way']}.webp").convert("RGB")
        for i, target in enumerate(found["targets"]):
            pictures.append(strip.crop((i * TILE, 0, (i + 1) * TILE, TILE)))
            titles.append(f"{target} {measured['way']}")
            captions.append(f"objective {measured['objectives'][i]:.1f}, slope {measured['slopes'][i]:.2f}")
    page = files.sheet(pictures, titles, captions, columns=len(found["targets"]), tile=TILE)
    page.save(DOCS / "images" / "parameterisations.webp", quality=85)
    redraw_all("parameterisations")


def words(found: dict[str, Any]) -> str:
    """What docs/parameterisations.md shows of it."""
    rows = sorted(found["rows"], key=lambda r: list(WAYS).index(r["way"]))
    header = ["parameterisation", *(f"`{target}`" for target in found["targets"]), "slope", "HF"]
    cells = []
    for measured in rows:
        means = [sum(measured[name]) / len(measured[name]) for name in ("slopes", "high_frequency")]
        numbers = [f"{value:.1f}" for value in measured["objectives"]]
        cells.append([measured["way"], *numbers, f"{means[0]:.2f}", f"{means[1]:.2f}"])
    stamps = dict.fromkeys(record.line(measured["machine"]) for measured in rows)
    return f"{table(header, cells)}\n\nMeasured on {'; '.join(stamps)}."


def more() -> None:
    """The pictures of learnt opacity, and of an interpolation with and without a component in common."""
    clear = fvfast.render(target=["logits:goldfish", "logits:daisy", "_blocks.10:9"], alpha=True, size=SIZE)
    _sheet([files.on_paper(p) for p in clear.pictures()], clear.targets, Path("alpha.webp"), 3)
    ends = ["_blocks.7:11", "_blocks.12:7"]
    pictures, titles = [], []
    for align in (False, True):
        way = fvfast.render(target=ends, interpolate=5, align=align, steps=96, size=SIZE)
        pictures += way.pictures()
        titles += [f"{part}, {'aligned' if align else 'apart'}" for part in ("0", "1/4", "1/2", "3/4", "1")]
    _sheet(pictures, titles, Path("interpolation.webp"), 5)


def _sheet(pictures: list[PIL.Image.Image], titles: list[str], name: Path, columns: int) -> None:
    page = files.sheet(pictures, titles, [""] * len(pictures), columns=columns, tile=TILE)
    page.save(DOCS / "images" / name, quality=85)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("ways", nargs="*", help=f"which of {', '.join(WAYS)} (default: all)")
    parser.add_argument("--more", action="store_true", help="the pictures of opacity and alignment instead")
    arguments = parser.parse_args()
    if arguments.more:
        return more()
    for way in arguments.ways or WAYS:
        if way not in WAYS:
            parser.error(f"unknown parameterisation {way!r}; there are {', '.join(WAYS)}")
        measured = row(way)
        print(measured, flush=True)
        before = record.load("parameterisations") or {"rows": []}
        rows = [r for r in before["rows"] if r["way"] != way] + [measured]
        record.save("parameterisations", COMMAND, rows, targets=TARGETS)
    write()
    return None


if __name__ == "__main__":
    main()
