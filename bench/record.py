"""What a measurement leaves behind: one JSON document a kind in bench/results, with the stamp of its machine.

`bench.report` and the dashboard read these and nothing else, so a figure that is shown was measured, and says where.
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from fvfast.stamps import commit, cores, line, machine, processor

__all__ = ["RESULTS", "ROOT", "commit", "cores", "line", "load", "machine", "processor", "save"]

ROOT = Path(__file__).parent.parent
RESULTS = ROOT / "bench" / "results"


def save(kind: str, command: str, rows: Sequence[dict[str, Any]], folder: Path = RESULTS, **more: Any) -> Path:
    """Keep what was measured as `<kind>.json`, in place of what was there: rows, and `more` beside them.

    command: what measures it again.
    """
    folder.mkdir(parents=True, exist_ok=True)
    document = {"kind": kind, "command": command, "machine": machine(), **more, "rows": list(rows)}
    path = folder / f"{kind}.json"
    unfinished = path.with_suffix(".json.part")
    unfinished.write_text(json.dumps(document, indent=1) + "\n")
    os.replace(unfinished, path)
    return path


def load(kind: str, folder: Path = RESULTS) -> dict[str, Any] | None:
    """What `save` kept; None where nothing of this kind was measured yet."""
    path = folder / f"{kind}.json"
    return json.loads(path.read_text()) if path.exists() else None
