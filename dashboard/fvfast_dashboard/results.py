"""What was measured, as the pages show it: read from the results' JSON, none of which needs to be there or be whole."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from fvfast_dashboard import settings

PEERS, SPEED, QUALITY, TRAJECTORIES = "peers", "speed", "quality", "trajectories"
COMMANDS = {
    "gpu": "make gpu",
    PEERS: "python -m bench.peers.setup && python -m bench.peers",
    SPEED: "fvfast speed",
    QUALITY: "fvfast quality",
    TRAJECTORIES: "python -m bench.trajectories",
}


class Unreadable(Exception):
    """A file of results that cannot be used; str() is a sentence on it."""


def load(kind: str) -> dict[str, Any] | None:
    """The document of a kind; None where there is none. Raises Unreadable where it is no such document."""
    return _document(settings.results_folder() / f"{kind}.json", "rows")


def measured_here() -> Path:
    """Where the dashboard keeps what it measured on this machine."""
    cache = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    return Path(cache) / "fvfast" / "speed.json"


def speed() -> tuple[dict[str, Any] | None, bool]:
    """The last measurement of `fvfast speed`, and whether it is of this machine: its own, else the one shipped."""
    try:
        own = _document(measured_here(), "rows")
    except Unreadable:
        own = None
    return (own, True) if own else (load(SPEED), False)


def keep_speed(document: dict[str, Any]) -> None:
    """Keep what was measured on this machine, as far as there is a place for it."""
    path = measured_here()
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        unfinished = path.with_suffix(".part")
        unfinished.write_text(json.dumps(document, indent=1) + "\n")
        os.replace(unfinished, path)
    except OSError:
        pass  # it is shown all the same, until the page is left


def gpu_reports() -> dict[str, dict[str, Any]]:
    """Every report of `make gpu`, by the name of its file, the newest first. Raises Unreadable as `load` does."""
    found: dict[str, dict[str, Any]] = {}
    for path in settings.results_folder().glob("*.json"):
        named = path.stem.endswith(tuple("0123456789"))  # <device>-<date>, or that and a number
        if named and (document := _document(path, "machine", "stages")):
            found[path.stem] = document
    return dict(sorted(found.items(), key=lambda item: str(item[1].get("started")), reverse=True))


def found(report: dict[str, Any], stage: str) -> dict[str, Any]:
    """What a stage of a GPU report has found; {} where it did not run, or found nothing before it ended."""
    return report["stages"].get(stage, {}).get("found") or {}


def rows(report: dict[str, Any], stage: str) -> list[dict[str, Any]]:
    """The cases of what a stage of a GPU report has found."""
    return found(report, stage).get("rows", [])


def unfinished(report: dict[str, Any]) -> dict[str, str]:
    """The stages of a GPU report that did not pass, and how they ended."""
    return {name: stage["state"] for name, stage in report["stages"].items() if stage["state"] != "passed"}


def _document(path: Path, *needed: str) -> dict[str, Any] | None:
    try:
        document = json.loads(path.read_text())
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise Unreadable(
            f"{path} cannot be read ({type(error).__name__}): measure it again, or take it away"
        ) from error
    if not isinstance(document, dict) or not all(name in document for name in needed):
        raise Unreadable(f"{path} is not what it should be (it has no {' or '.join(needed)}): measure it again")
    return document
