"""Every recipe on the same 64 features: what networks see in the renders, how natural and how diverse they are.

    python -m bench.quality                 render what is missing in the store, measure, write docs/quality.md
    python -m bench.quality --only          measure what the store holds

Half an hour and more on one core; stopped at any moment, the same command goes on. Canvases of 128 px, so that all
recipes are measured alike; every recipe takes its own steps but lucent, which gets 128 of its 512.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import PIL.Image

from bench import record
from bench.report import DOCS, redraw_all
from bench.tables import table
from fvfast import files, trials
from fvfast.cli_atlas import Board
from fvfast.cli_quality import cell
from fvfast.intervals import Interval
from fvfast.measures import EYE, MEASURES, NETWORK, SEEDS, Report, measure

COMMAND = "python -m bench.quality"
SIZE = 128
RUNS: tuple[tuple[tuple[str, ...], int | None], ...] = (
    (tuple(name for name in trials.VARIANTS if name != "lucent"), None),
    (("lucent",), 128),
)
HEADINGS = {
    "held_out": "held-out",
    "kept": "kept",
    "transfer": "transfer",
    "slope": "slope",
    "high_frequency": "HF",
    "contrast": "contrast",
    "colourfulness": "colour",
    "structure": "1 - MS-SSIM",
    "gram": "Gram",
}
# Measures whose extremes are worth a look: all but those between seeds, which belong to pairs.
SHOWN = (*NETWORK, *EYE)
TILES = 6


def render(store: Path) -> bool:
    """Render what is missing; whether all is there."""
    with Board(quiet=False) as board:
        for variants, steps in RUNS:
            made = trials.render(
                variants=variants, size=SIZE, steps=steps, store=store, progress=board.advance, stop=board.stopped
            )
            if made.interrupted:
                return False
    return True


def extremes(report: Report, store: Path, measure: str) -> PIL.Image.Image:
    """The renders with the highest and the lowest values of a measure, a row each."""
    from fvfast.store import Query, Store

    rows = sorted((r for r in report.rows if r[measure] is not None), key=lambda r: r[measure])
    chosen = [*rows[: -TILES - 1 : -1], *rows[:TILES]]
    with Store(store) as kept:
        paths = [store / next(kept.each(Query(key=row["key"]))).image for row in chosen]
    pictures = [PIL.Image.open(path).convert("RGB") for path in paths]
    titles = [f"{row['variant']} {row['target']}" for row in chosen]
    captions = [f"{HEADINGS[measure]} {row[measure]:.3g}" for row in chosen]
    return files.sheet(pictures, titles, captions, columns=TILES, tile=160)


# Words -----------------------------------------------------------------------------------------------------


def words(stored: dict[str, Any]) -> str:
    """The tables, and where they come from."""
    parts = [_table(stored, group) for group in (NETWORK, EYE, SEEDS)]
    parts.append(
        f"Means over {len(stored['features'])} features, {stored['size']} px, with 95 % bootstrap intervals. Transfer: "
        f"to {stored['second']}. `{stored['command']}`; {record.line(stored['machine'])}."
    )
    return "\n\n".join(parts)


def _table(stored: dict[str, Any], group: Sequence[str]) -> str:
    rows = [
        [f"`{variant}`", *(cell(Interval(**found[name]) if found[name] else None) for name in group)]
        for variant, found in stored["summary"].items()
    ]
    photographs = stored["photographs"] or {}
    if any(name in photographs for name in group):
        rows.append([f"{photographs['count']} photographs", *(f"{photographs[name]:.2f}" for name in group)])
    return table(["recipe", *(HEADINGS[name] for name in group)], rows)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--store", type=Path, default=Path(trials.DEFAULT_STORE), help="where the renders are kept")
    parser.add_argument("--only", action="store_true", help="render nothing")
    options = parser.parse_args()
    if not options.only and not render(options.store):
        print("interrupted; the same command goes on", file=sys.stderr)
        return 130
    report = measure(options.store)
    document = report.document()
    rows = document.pop("renders")
    sizes = {row["size"] for row in rows}
    record.save("quality", COMMAND, rows, size="/".join(map(str, sorted(sizes))), measures=list(MEASURES), **document)
    for name in SHOWN:
        extremes(report, options.store, name).save(
            DOCS / "images" / f"quality-{name.replace('_', '-')}.webp", quality=82
        )
    redraw_all("quality")
    return 0


if __name__ == "__main__":
    sys.exit(main())
