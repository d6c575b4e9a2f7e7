"""What the measuring scripts share: a stamp of the machine, tables, and the marked blocks of a document."""

from __future__ import annotations

import datetime
import platform
import re
import subprocess
from collections.abc import Sequence
from pathlib import Path

import torch

ROOT = Path(__file__).parent.parent
DOCS = ROOT / "docs"


def stamp() -> str:
    """One line on where and when a figure was measured."""
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else _processor()
    commit = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], cwd=ROOT, capture_output=True, text=True, check=False
    ).stdout.strip()
    today = datetime.date.today().isoformat()
    return f"{device}, torch {torch.__version__}, Python {platform.python_version()}, {today}, commit {commit or '?'}"


def _processor() -> str:
    try:
        text = Path("/proc/cpuinfo").read_text()
    except OSError:
        return platform.processor() or platform.machine()
    name = re.search(r"model name\s*:\s*(.+)", text)
    return f"{torch.get_num_threads()} cores of {name.group(1).strip() if name else platform.machine()}"


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
