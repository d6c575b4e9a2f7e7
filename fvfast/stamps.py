"""Where and when a figure was measured."""

from __future__ import annotations

import datetime
import importlib.metadata
import os
import platform
import re
import subprocess
from pathlib import Path
from typing import Any

import torch

ROOT = Path(__file__).parent.parent  # of the checkout, where there is one


def machine() -> dict[str, Any]:
    """Where and when: processor, its cores that this process may use, GPU and driver if any, versions, date, commit."""
    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else None
    return {
        "device": gpu or f"{cores()} core{'s' if cores() > 1 else ''} of {processor()}",
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
    if not (ROOT / "bench").is_dir():  # an installed package may lie in another project's checkout
        return "?"
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
