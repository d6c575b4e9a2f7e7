"""What the measuring scripts share: a stamp of the machine, tables, and the marked blocks of a document."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from bench import record
from bench.record import ROOT

DOCS = ROOT / "docs"


def stamp() -> str:
    """One line on where and when a figure was measured."""
    return record.line(record.machine())


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table; the first column is text, the others figures."""
    rule = ["---", *["---:"] * (len(header) - 1)]
    return "\n".join("| " + " | ".join(row) + " |" for row in (header, rule, *rows))


def write_block(document: Path, name: str, text: str) -> None:
    """Put `text` between the lines `<!-- name -->` and `<!-- /name -->` of a document, in place of what is there."""
    pattern = re.compile(rf"(<!-- {name} -->\n).*?(<!-- /{name} -->)", re.DOTALL)
    old = document.read_text()
    if not pattern.search(old):
        raise SystemExit(f"{document} has no block {name}: add the lines <!-- {name} --> and <!-- /{name} -->")
    document.write_text(pattern.sub(lambda match: f"{match[1]}{text}\n{match[2]}", old))
