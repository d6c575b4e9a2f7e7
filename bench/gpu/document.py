"""The report's document: what each stage came to and found, kept as one JSON file that is whole at any moment.

    {"kind": "gpu", "command", "started", "machine", "weights", "quick", "budget_s", "seconds", "ended",
     "stages": {NAME: {"state", "seconds", "box_s", "exit", "output", "found"}}}

A stage's `state` is one of STATES, `output` the end of what it printed, where it did not pass, and `found` what it
had written when it ended, however it ended.
"""

from __future__ import annotations

import datetime
import json
from pathlib import Path
from typing import Any

from bench.gpu.findings import write_whole

ROOT = Path(__file__).parents[2]
RESULTS = ROOT / "bench" / "results"
COMMAND = "python -m bench.gpu_report"
STATES = {
    "passed": "passed",
    "failed": "FAILED: it ran to its end, and something in it is not as it should be",
    "crashed": "CRASHED",
    "timed out": "TIMED OUT: ended when its time was over",
    "stopped": "stopped from outside",
    "missing": "not run: its module is not there",
    "no time": "not run: no time was left for it",
    "running": "still running when this was written",
    "waiting": "not reached",
}


def begin(names: list[str], command: str, budget: float, quick: bool) -> dict[str, Any]:
    """The document of a report that is about to run these stages."""
    return {
        "kind": "gpu",
        "command": command,
        "started": datetime.datetime.now().isoformat(timespec="seconds"),
        "machine": {},
        "weights": "",
        "quick": quick,
        "budget_s": budget,
        "seconds": 0.0,
        "ended": "running",
        "stages": {name: {"state": "waiting"} for name in names},
    }


def write(report: dict[str, Any], path: Path) -> None:
    """The document into its file, in one piece."""
    write_whole(path, json.dumps(report, indent=1) + "\n")


def read_found(path: Path) -> dict[str, Any] | None:
    """What a stage has written so far; None where that is nothing yet, or no JSON object."""
    try:
        found = json.loads(path.read_text())
    except (OSError, ValueError):
        return None
    return found if isinstance(found, dict) else None


def exit_of(code: int | None, found: dict[str, Any] | None) -> int | None:
    """A stage's exit status, or the one it was about to end with when it had said that it had finished."""
    if code is None and found and found.get("finished"):
        return 0 if found.get("passed") else 1
    return code


def state_of(code: int | None, output: str) -> str:
    """The state of a stage that ended with an exit status (None: by its time), having printed `output`."""
    if code is None:
        return "timed out"
    if code == 1 and "Traceback (most recent call last)" not in output:
        return "failed"
    return "passed" if code == 0 else "crashed"


def healthy(report: dict[str, Any]) -> bool:
    """Whether every stage that was asked for has run and passed."""
    return all(stage["state"] == "passed" for stage in report["stages"].values())


def found(report: dict[str, Any], name: str) -> dict[str, Any]:
    """What a stage has found; {} where it found nothing or did not run."""
    return report["stages"].get(name, {}).get("found") or {}


def rows(report: dict[str, Any], name: str) -> list[dict[str, Any]]:
    """The rows of what a stage has found."""
    return found(report, name).get("rows", [])


def newest(folder: Path = RESULTS) -> dict[str, Any] | None:
    """The report in a folder that was measured last; None where there is none."""
    reports = [document for path in folder.glob("*.json") if (document := read_found(path)) is not None]
    reports = [document for document in reports if document.get("kind") == "gpu" and document.get("machine")]
    return max(reports, key=lambda report: str(report.get("started", "")), default=None)
