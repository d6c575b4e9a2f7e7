"""What a measurement leaves behind: one JSON document a kind in bench/results, with the stamp of its machine.

`bench.report` and the dashboard read these and nothing else, so a figure that is shown was measured, and says where.
"""

from __future__ import annotations

import datetime
import importlib.metadata
import json
import os
import platform
import re
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

ROOT = Path(__file__).parent.parent
RESULTS = ROOT / "bench" / "results"


def machine() -> dict[str, Any]:
    """Where and when: processor, its cores that this process may use, GPU and driver if any, versions, date, commit."""
    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else None
    return {
        "device": gpu or f"{cores()} cores of {processor()}",
        "processor": processor(),
        "cores": cores(),
        "gpu": gpu,
        "torch": torch.__version__,
        "triton": _version("triton"),
        "python": platform.python_version(),
        "fvfast": _version("fvfast"),
        "date": datetime.date.today().isoformat(),
        "commit": commit(),
    }


def line(machine: dict[str, Any]) -> str:
    """A machine's stamp as one line of text."""
    return (
        f"{machine['device']}, torch {machine['torch']}, Python {machine['python']}, {machine['date']}, "
        f"commit {machine['commit']}"
    )


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


def processor() -> str:
    try:
        text = Path("/proc/cpuinfo").read_text()
    except OSError:
        return platform.processor() or platform.machine()
    name = re.search(r"model name\s*:\s*(.+)", text)
    return name.group(1).strip() if name else platform.machine()


def cores() -> int:
    """How many processors this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def commit() -> str:
    """The short hash of the checkout, with a + where files differ from it; ? outside of one."""
    asked = ["git", "describe", "--always", "--dirty=+", "--exclude=*"]
    try:
        done = subprocess.run(asked, cwd=ROOT, capture_output=True, text=True, check=False)
    except OSError:
        return "?"
    return done.stdout.strip() or "?"


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None
