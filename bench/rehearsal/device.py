"""What the stand-in device has done so far, and how much memory it has; asked from inside a rehearsal."""

from __future__ import annotations

import contextlib
import ctypes
import os
from collections.abc import Iterator
from dataclasses import dataclass, fields


@dataclass(frozen=True)
class Counts:
    """launches: outside captures; nodes: inside. replays: of graphs. captures: that ended well; broken: that did not.

    synchronisations: of the host with a stream, an event or the device. to_device, to_host: copies. used: bytes.
    """

    launches: int
    nodes: int
    replays: int
    captures: int
    broken: int
    synchronisations: int
    to_device: int
    to_host: int
    used: int

    def since(self, before: Counts) -> Counts:
        """What was done between the two."""
        return Counts(*(getattr(self, f.name) - getattr(before, f.name) for f in fields(Counts)))


def present() -> bool:
    """Whether this process runs on the stand-in device."""
    return "libdevice.so" in os.environ.get("LD_PRELOAD", "") and hasattr(ctypes.CDLL(None), "rehearsal_counts")


def counts() -> Counts:
    """What was done since the process began."""
    found = (ctypes.c_long * len(fields(Counts)))()
    ctypes.CDLL(None).rehearsal_counts(found)
    return Counts(*found)


@contextlib.contextmanager
def memory(size: int) -> Iterator[None]:
    """Have the device hold so many bytes for a while."""
    library = ctypes.CDLL(None)
    library.rehearsal_memory.restype = ctypes.c_size_t
    before = library.rehearsal_memory(ctypes.c_size_t(size))
    try:
        yield
    finally:
        library.rehearsal_memory(ctypes.c_size_t(before))
