"""One writer at a time: a lock on a file, which the system takes back when its process dies, however it dies."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from fvfast.errors import FvfastError


class Locked(FvfastError):
    """Another process writes: waiting helps."""


class Lock:
    """The right to write to a folder, held until `release`."""

    def __init__(self, folder: Path) -> None:
        """Raises Locked, naming the other process, where another holds it."""
        path = folder / "writer.lock"
        self._file = open(path, "a+")  # noqa: SIM115 (it stays open for as long as the lock is held)
        try:
            _take(self._file.fileno())
        except OSError as error:
            self._file.seek(0)
            holder = self._file.read().strip() or "another process"
            self._file.close()
            raise Locked(
                f"{holder} is writing to the store {folder}: wait until it has finished, or use another --store"
            ) from error
        self._file.seek(0)
        self._file.truncate()
        self._file.write(f"process {os.getpid()}")
        self._file.flush()

    def release(self) -> None:
        """Let others write. What the file says of the holder means nothing from then on."""
        self._file.close()


def _take(handle: int) -> None:
    if sys.platform == "win32":
        import msvcrt

        # A byte far behind the text, so that others can read who holds it.
        os.lseek(handle, 1 << 20, os.SEEK_SET)
        msvcrt.locking(handle, msvcrt.LK_NBLCK, 1)
    else:
        import fcntl

        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
