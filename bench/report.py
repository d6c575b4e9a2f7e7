"""Every table and figure that README and docs show, drawn again from what was measured: `python -m bench.report`.

Measuring scripts keep their figures in bench/results (`bench.record`); the documents show them between the lines
`<!-- name -->` and `<!-- /name -->`. Nothing is measured here, so that a document can never say more than its data.
"""

from __future__ import annotations

import importlib
import re
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench import record
from bench.gpu.document import newest
from bench.record import ROOT
from bench.tables import table

DOCS = ROOT / "docs"


@dataclass(frozen=True)
class Shown:
    """A marked block of a document, and the measurement that it shows.

    words: `module:function`, which makes the block's text from the stored document.
    """

    document: str
    block: str
    kind: str
    words: str = "bench.report:plain"


SHOWN = (
    Shown("README.md", "headline", "peers", "bench.headline:words"),
    Shown("docs/performance.md", "batching", "batching"),
    Shown("docs/performance.md", "bench", "bench", "bench.suite:words"),
    Shown("docs/performance.md", "peers", "peers", "bench.peers.table:markdown"),
    Shown("docs/performance.md", "peers-layers", "peers-layers", "bench.peers.table:compact"),
    Shown("docs/performance.md", "time-to-quality", "time-to-quality", "bench.time_to_quality:markdown"),
    Shown("docs/quality.md", "quality", "quality", "bench.quality:words"),
    Shown("docs/quality.md", "trajectories", "trajectories", "bench.trajectories:words"),
    Shown("docs/recipes.md", "table", "recipes", "bench.recipes:words"),
    Shown("docs/features.md", "table", "features"),
    Shown("docs/atlas.md", "bench", "atlas", "bench.atlas:words"),
    Shown("docs/kernels.md", "resources", "resources"),
    Shown("docs/gpu.md", "gpu", "gpu", "bench.gpu.words:shown"),
    Shown("docs/classics.md", "dream", "dreams"),
    Shown("docs/classics.md", "ways", "ways"),
    Shown("docs/classics.md", "faces", "faces"),
    Shown("docs/parameterisations.md", "ways", "parameterisations", "bench.parameterisations:words"),
    Shown("docs/parameterisations.md", "dead", "dead", "bench.dead:words"),
    Shown("docs/activation-atlas.md", "atlas", "activation_atlas"),
    Shown("docs/lucent.md", "speed", "lucent_dropin", "bench.lucent_dropin:words"),
    Shown("docs/seeded.md", "layers", "seeded", "bench.seeded:words"),
)


def main() -> None:
    from bench import figures

    for shown in SHOWN:
        print(f"{shown.document}, {shown.block}: {'drawn' if redraw(shown) else 'not yet measured'}")
    for path in figures.draw_all():
        print(path.relative_to(ROOT))


def redraw(shown: Shown) -> bool:
    """Draw one block again; False, with the block as it was, where nothing was measured."""
    stored = newest(record.RESULTS) if shown.kind == "gpu" else record.load(shown.kind)
    if stored is None:
        return False
    module, _, function = shown.words.partition(":")
    write_block(ROOT / shown.document, shown.block, getattr(importlib.import_module(module), function)(stored))
    return True


def redraw_all(kind: str) -> None:
    """Draw every block that shows measurements of a kind."""
    for shown in SHOWN:
        if shown.kind == kind:
            redraw(shown)


def stamp() -> str:
    """One line on where and when a figure was measured."""
    return record.line(record.machine())


def keep(
    kind: str, command: str, header: Sequence[str], rows: Sequence[Sequence[str]], before: str = "", after: str = ""
) -> None:
    """Keep a measurement that is one plain table, print it, and show it where it is shown.

    before, after: paragraphs around the table.
    """
    cells: list[dict[str, Any]] = [{str(i): cell for i, cell in enumerate(row)} for row in rows]
    record.save(kind, command, cells, header=list(header), before=before, after=after)
    stored = record.load(kind)
    assert stored is not None
    print(plain(stored))
    redraw_all(kind)


def plain(stored: dict[str, Any]) -> str:
    """What `keep` kept, as Markdown."""
    text = table(stored["header"], [list(row.values()) for row in stored["rows"]])
    parts = (stored["before"], text, stored["after"], f"Measured on {record.line(stored['machine'])}.")
    return "\n\n".join(part for part in parts if part)


def write_block(document: Path, name: str, text: str) -> None:
    """Put `text` between the lines `<!-- name -->` and `<!-- /name -->` of a document, in place of what is there."""
    pattern = re.compile(rf"(<!-- {name} -->\n).*?(<!-- /{name} -->)", re.DOTALL)
    old = document.read_text()
    if not pattern.search(old):
        raise SystemExit(f"{document} has no block {name}: add the lines <!-- {name} --> and <!-- /{name} -->")
    document.write_text(pattern.sub(lambda match: f"{match[1]}{text}\n{match[2]}", old))


if __name__ == "__main__":
    # Under its own name, or the modules that it draws with would find another one.
    sys.modules["bench.report"] = sys.modules[__name__]
    main()
