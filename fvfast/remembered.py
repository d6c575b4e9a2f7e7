"""What was measured on this machine, kept between runs as readable JSON in the user's cache folder."""

from __future__ import annotations

import contextlib
import json
import os
from pathlib import Path
from typing import Any

from fvfast.errors import FvfastError
from fvfast.files import whole

MOST = 500  # entries; the oldest go first


def folder() -> Path:
    """`fvfast` in XDG_CACHE_HOME, or in ~/.cache."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "fvfast"


class Remembered:
    """A dictionary in a file. One that is missing or damaged is empty; one that cannot be written stays so."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def get(self, key: str) -> dict[str, Any]:
        """What was put there under `key`, or nothing."""
        found = self._read().get(key)
        return found if isinstance(found, dict) else {}

    def put(self, key: str, value: dict[str, Any]) -> None:
        """Keep a value; what another process put in meanwhile stays."""
        entries = self._read()
        entries.pop(key, None)
        entries[key] = value
        text = json.dumps(dict(list(entries.items())[-MOST:]), indent=1)
        with contextlib.suppress(OSError, FvfastError):
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with whole(self.path) as file:
                file.write(text.encode() + b"\n")

    def _read(self) -> dict[str, Any]:
        try:
            found = json.loads(self.path.read_text())
        except (OSError, ValueError):
            return {}
        return found if isinstance(found, dict) else {}
