"""Shared memory of one CTA: loads, stores, asynchronous copies, and the checks of every access.

Reported: an access out of bounds or not aligned, a read of bytes that nothing wrote, and races: bytes that one warp
wrote and another touches before the next barrier, and bytes of a copy or a matrix product that is still in flight.
Lanes of one warp that exchange bytes without a barrier are noted only.
"""

from __future__ import annotations

import numpy as np

from bench.ptx.arithmetic import POISON, STORAGE, U8, U16, U32, U64
from bench.ptx.findings import Cta
from bench.ptx.global_memory import NEVER, GlobalAccess

SHARED_BASE = 1024  # where a kernel's own begins: the first KiB is the system's
SEVERAL = -2  # warps


class SharedMemory:
    """Bytes, and by granule of two bytes who touched it after how many barriers.

    Attributes:
        write_epoch, writer: the barriers passed at the last write, and its thread.
        read_epoch, reader: the same of the last read, and its warp.
        in_flight: whether a copy to it has not been waited for.
        dirty: whether it was written without a fence to the asynchronous proxy since.
        products: how many matrix products in flight read it.
    """

    def __init__(self, cta: Cta, size: int, memory: GlobalAccess):
        self._cta, self._memory, self.size = cta, memory, size
        padded = -(-max(size, 16) // 16) * 16
        data = np.full(padded, 0xFF, U8)
        self.words = {1: data, 2: data.view(U16), 4: data.view(U32), 8: data.view(U64)}
        n = padded // 2
        self.write_epoch, self.writer = np.full(n, NEVER, np.int64), np.zeros(n, np.int64)
        self.read_epoch, self.reader = np.full(n, NEVER, np.int64), np.full(n, NEVER, np.int64)
        self.in_flight, self.dirty, self.products = np.zeros(n, bool), np.zeros(n, bool), np.zeros(n, np.int64)
        self._open: list[tuple[np.ndarray, np.ndarray]] = []
        self._groups: list[list[tuple[np.ndarray, np.ndarray]]] = []

    # What the instructions do.

    def load(self, pc: int, mask, address: np.ndarray, size: int, count: int) -> np.ndarray:
        """`count` words of `size` bytes for each thread: [count, threads]."""
        kind = STORAGE[8 * size]
        out = np.full((count, self._cta.threads), POISON[kind], kind)
        who = self._cta.select(mask)
        if who.size:
            who, relative = self.locate(pc, "ld.shared", who, address[who], size * count)
            self.reading(pc, who, relative, size * count)
            for n in range(count):
                out[n, who] = self.words[size][relative // size + n]
        return out

    def store(self, pc: int, mask, address: np.ndarray, size: int, values: tuple[np.ndarray, ...]) -> None:
        who = self._cta.select(mask)
        if who.size:
            who, relative = self.locate(pc, "st.shared", who, address[who], size * len(values))
            self.write(pc, who, relative, size, np.stack([v[who] for v in values], 1))

    def copy(self, pc: int, mask, target: np.ndarray, source: np.ndarray, size: int, filled: np.ndarray) -> None:
        """cp.async: the bytes move at once, but are in flight until their group has been waited for."""
        who = self._cta.select(mask)
        if not who.size:
            return
        who, relative = self.locate(pc, "cp.async", who, target[who], size)
        taken = filled[who]
        if not ((taken == 0) | (taken == size)).all():
            self._cta.report("partial asynchronous copy (not modelled)", pc)
        granule, twice, _ = self._claim(pc, who, relative, size)
        self.in_flight[granule] = True
        if twice:
            self._cta.report("shared: copies overlap", pc)
        full = np.zeros(self._cta.threads, bool)
        full[who[taken == size]] = True
        chunk = self._memory.load(pc, full, source, 4, size // 4)  # zeros where nothing is taken
        for n in range(size // 4):
            self.words[4][relative // 4 + n] = chunk[n, who]
        self._open.append((granule, who))

    def commit_copies(self) -> None:
        self._groups.append(self._open)
        self._open = []

    def wait_for_copies(self, left: int) -> None:
        """Until at most `left` groups are in flight; then their bytes count as just written."""
        done = self._groups[: max(0, len(self._groups) - left)]
        self._groups = self._groups[len(done) :]
        for granule, who in (copy for group in done for copy in group):
            self.in_flight[granule] = False
            self.write_epoch[granule], self.writer[granule] = self._cta.epoch, who[:, None]

    @property
    def copies_left(self) -> bool:
        return bool(self._open or any(self._groups))

    # What the instructions check.

    def locate(self, pc: int, kind: str, who: np.ndarray, at: np.ndarray, size: int, lanes: int | None = None):
        """Threads and offsets of the valid accesses; others are reported."""
        if self._cta.traffic is not None:
            self._cta.traffic.shared(kind, who, at, size, lanes)
        relative = at.astype(np.int64) - SHARED_BASE
        outside = (relative < 0) | (relative + size > self.size)
        slant = (relative & (size - 1)) != 0
        for bad, what in ((outside, "out of bounds, shared"), (slant, "misaligned shared access")):
            if bad.any():
                n = np.flatnonzero(bad)[0]
                self._cta.report(what, pc, f"thread {who[n]} offset {relative[n]} of {self.size}, {size} bytes")
        good = ~(outside | slant)
        return (who, relative) if good.all() else (who[good], relative[good])

    def reading(self, pc: int, who: np.ndarray, relative: np.ndarray, size: int, by_lane: bool = True) -> None:
        """Bookkeeping and checks of a read. by_lane: whether each lane reads for itself alone."""
        cta, granule = self._cta, relative[:, None] // 2 + np.arange(max(1, size // 2))
        warp, writer = (who // 32)[:, None], self.writer[granule]
        fresh = self.write_epoch[granule] == cta.epoch
        race = fresh & (writer // 32 != warp)
        for bad, what in (
            (self.write_epoch[granule] == NEVER, "read of unwritten shared memory"),
            (self.in_flight[granule], "shared race: read of a copy in flight"),
            (race, "shared race: read of another warp's write"),
        ):
            self._report(pc, bad, what, who, relative)
        if fresh.any():
            other = fresh & ~race
            if by_lane:
                other &= writer != who[:, None]
            if other.any():
                cta.note("shared: read of another lane's write in the same warp without a barrier", pc)
        seen = (self.read_epoch[granule] == cta.epoch) & (self.reader[granule] != warp)
        self.read_epoch[granule] = cta.epoch
        self.reader[granule] = np.where(seen, SEVERAL, warp)
        self.reader[granule[self.reader[granule] != warp]] = SEVERAL

    def write(self, pc: int, who: np.ndarray, relative: np.ndarray, size: int, new: np.ndarray) -> None:
        """Stores new [threads, count] words of `size` bytes, after the checks."""
        index = relative[:, None] // size + np.arange(new.shape[1])
        _, twice, raced = self._claim(pc, who, relative, size * new.shape[1])
        words = self.words[size]
        before = words[index] if twice else None
        words[index] = new
        if before is None:
            return
        # Two threads wrote the same bytes: a race only if the values differ.
        if (words[index] != new).any() or (raced and (before != new).any()):
            self._cta.report("shared race: different values written between barriers", pc)
        else:
            self._cta.note("shared: the same value written by several threads between barriers", pc)

    def _claim(self, pc: int, who: np.ndarray, relative: np.ndarray, size: int) -> tuple[np.ndarray, bool, bool]:
        """Bookkeeping and checks of a write: its granules, whether any has several writers, other warps' among them."""
        cta, granule = self._cta, relative[:, None] // 2 + np.arange(max(1, size // 2))
        warp = (who // 32)[:, None]
        busy = self.in_flight[granule] | (self.products[granule] > 0)
        self._report(pc, busy, "shared race: write over a copy or product in flight", who, relative)
        read = (self.read_epoch[granule] == cta.epoch) & (self.reader[granule] != warp)
        self._report(pc, read, "shared race: write of what another warp reads", who, relative)
        raced = bool(((self.write_epoch[granule] == cta.epoch) & (self.writer[granule] // 32 != warp)).any())
        self.write_epoch[granule], self.writer[granule] = cta.epoch, who[:, None]
        self.dirty[granule] = True
        return granule, raced or bool((self.writer[granule] != who[:, None]).any()), raced

    def _report(self, pc: int, bad: np.ndarray, what: str, who: np.ndarray, relative: np.ndarray) -> None:
        if bad.any():
            n = np.flatnonzero(bad.any(1))[0]
            self._cta.report(what, pc, f"thread {who[n]} offset {relative[n]}")
