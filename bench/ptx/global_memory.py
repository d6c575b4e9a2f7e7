"""Global memory: numpy arrays at addresses, and the checks of every access to them.

Reported: an access outside of all allocations, one that is not aligned, a read of bytes that nothing wrote, a write
to an input, and races: bytes that two threads of a launch touch, one of them writing, without a barrier between.
"""

from __future__ import annotations

import numpy as np

from bench.ptx.arithmetic import STORAGE, U8, U16, U32, U64
from bench.ptx.findings import Cta

NEVER = -1
_SEVERAL = -2  # threads of one CTA
_SEVERAL_CTAS = -3
_FIRST_ADDRESS, _GAP = 0x7F10_0000_0000, 0x10_0000


class Allocation:
    """A contiguous numpy array at an address, tracked in granules of two bytes.

    Attributes:
        role: "in" (never written), "out" (holds nothing yet), or "inout".
        data: the emulated bytes; `Memory.fetch` copies them back into the array.
        ready: by granule, whether it holds anything.
        was_read, was_written: whether any launch did.
    """

    def __init__(self, name: str, array: np.ndarray, address: int, role: str):
        if not array.flags.c_contiguous:
            raise ValueError(f"{name} is not contiguous.")
        self.name, self.array, self.address, self.role, self.size = name, array, address, role, array.nbytes
        self.was_read = self.was_written = False
        padded = -(-self.size // 16) * 16
        self.data = np.zeros(padded, U8)
        self.data[: self.size] = array.reshape(-1).view(U8)
        if role == "out":
            self.data[:] = 0xFF  # NaN in every floating-point type
        self.words = {1: self.data, 2: self.data.view(U16), 4: self.data.view(U32), 8: self.data.view(U64)}
        self.ready = np.full(padded // 2, role != "out")
        # Of this launch, by granule: which thread (CTA * 4096 + thread) wrote and read it last, after how many of its
        # CTA's barriers, and which CTA read it.
        self.writer, self.write_epoch = np.full((2, padded // 2), NEVER, np.int64)
        self.reader, self.read_epoch = np.full((2, padded // 2), NEVER, np.int64)
        self.reader_cta = np.full(padded // 2, NEVER, np.int64)

    def new_launch(self) -> None:
        self.writer[:], self.reader[:], self.reader_cta[:] = NEVER, NEVER, NEVER

    def restore(self, data: np.ndarray, ready: np.ndarray) -> None:
        """Puts bytes back as they were; `data` may lack the padding."""
        self.data[: data.size], self.ready[:] = data, ready

    def unwritten(self) -> int:
        """Bytes that hold nothing."""
        return 2 * int((~self.ready[: self.size // 2]).sum())


class Memory:
    """Allocations with wide gaps between them, so that an address lies in at most one."""

    def __init__(self) -> None:
        self.allocations: list[Allocation] = []
        self._next = _FIRST_ADDRESS

    def add(self, name: str, array: np.ndarray, role: str = "in") -> int:
        """The address of a new allocation that holds what the array holds."""
        allocation = Allocation(name, array, self._next, role)
        self.allocations.append(allocation)
        self._next += (allocation.size + _GAP) // _GAP * _GAP + _GAP
        self._starts = np.array([a.address for a in self.allocations], U64)
        return allocation.address

    def named(self, name: str) -> Allocation:
        return next(a for a in self.allocations if a.name == name)

    def fetch(self) -> None:
        """Copies what the kernels wrote into the arrays."""
        for a in self.allocations:
            if a.role != "in":
                a.array.reshape(-1).view(U8)[:] = a.data[: a.size]

    def resolve(self, address: np.ndarray, size: int):
        """Parts (allocation, which) of some addresses, and which of them lie outside of all (None: none)."""
        low, high = int(address.min()), int(address.max())
        n = int(np.searchsorted(self._starts, U64(low), "right")) - 1
        if n >= 0 and high + size <= self.allocations[n].address + self.allocations[n].size:
            return [(self.allocations[n], slice(None))], None
        which = np.searchsorted(self._starts, address, "right") - 1
        outside, parts = which < 0, []
        for n in np.unique(which[which >= 0]):
            mine, a = which == n, self.allocations[n]
            fits = mine & (address + U64(size) <= U64(a.address + a.size))
            outside |= mine & ~fits
            if fits.any():
                parts.append((a, fits))
        return parts, outside

    def describe(self, address: int) -> str:
        """An address by the allocation below it."""
        below = [a for a in self.allocations if a.address <= address]
        return f"{below[-1].name}+{address - below[-1].address} of {below[-1].size}" if below else hex(address)


class GlobalAccess:
    """Loads and stores of one CTA. A mask says which threads take part (None: all)."""

    def __init__(self, memory: Memory, cta: Cta):
        self._memory, self._cta = memory, cta

    def load(self, pc: int, mask, address: np.ndarray, size: int, count: int) -> np.ndarray:
        """`count` words of `size` bytes for each thread: [count, threads]."""
        out = np.zeros((count, self._cta.threads), STORAGE[8 * size])
        who = self._cta.select(mask)
        for allocation, mine, relative in self._parts(pc, who, address[who], size * count, "ld.global"):
            self._read(pc, allocation, mine, relative, size * count)
            for n in range(count):
                out[n, mine] = allocation.words[size][relative // size + n]
        return out

    def store(self, pc: int, mask, address: np.ndarray, size: int, values: tuple[np.ndarray, ...]) -> None:
        who = self._cta.select(mask)
        for allocation, mine, relative in self._parts(pc, who, address[who], size * len(values), "st.global"):
            self._write(pc, allocation, mine, relative, size, np.stack([v[mine] for v in values], 1))

    def _parts(self, pc: int, who: np.ndarray, at: np.ndarray, size: int, kind: str):
        """Allocations with the threads and offsets of the accesses in bounds; others are reported."""
        cta = self._cta
        if not who.size:
            return []
        slant = np.flatnonzero(at & U64(size - 1))
        if slant.size:
            n = slant[0]
            cta.report("misaligned global access", pc, f"thread {who[n]} at {int(at[n]):#x}, {size} bytes")
            return []
        parts, outside = self._memory.resolve(at, size)
        if outside is not None and outside.any():
            n = np.flatnonzero(outside)[0]
            place = self._memory.describe(int(at[n]))
            detail = f"thread {who[n]} at {place}, {size} bytes; {int(outside.sum())} threads"
            cta.report("out of bounds, global", pc, detail)
        if cta.traffic is not None:
            cta.traffic.globally(kind, who, at, size)
        return [(a, who[which], (at[which] - U64(a.address)).astype(np.int64)) for a, which in parts]

    def _foreign(self, a: Allocation, granule: np.ndarray, me: np.ndarray) -> np.ndarray:
        """Granules that another thread wrote, in another CTA or since the last barrier."""
        last, number = a.writer[granule], self._cta.number
        recent = (last // 4096 != number) | (a.write_epoch[granule] == self._cta.epoch)
        return (last != NEVER) & (last != me) & recent

    def _read(self, pc: int, a: Allocation, mine: np.ndarray, relative: np.ndarray, size: int) -> None:
        cta, granule = self._cta, _granules(relative, size)
        a.was_read = True
        if not a.ready[granule].all():
            n = np.flatnonzero(~a.ready[granule].all(1))[0]
            cta.report("read of unwritten global memory", pc, f"thread {mine[n]} {a.name}+{relative[n]}")
        if a.role == "in":
            return
        me = (cta.number * 4096 + mine)[:, None]
        foreign = self._foreign(a, granule, me)
        if foreign.any():
            n = np.flatnonzero(foreign.any(1))[0]
            cta.report("global race: read of another thread's write", pc, f"thread {mine[n]} {a.name}+{relative[n]}")
        seen, place = a.reader[granule], a.reader_cta[granule]
        stale = (place == cta.number) & (a.read_epoch[granule] != cta.epoch)
        a.reader[granule] = np.where((seen == NEVER) | (seen == me) | stale, me, _SEVERAL)
        a.reader[granule[a.reader[granule] != me]] = _SEVERAL
        a.reader_cta[granule] = np.where((place == NEVER) | (place == cta.number), cta.number, _SEVERAL_CTAS)
        a.read_epoch[granule] = cta.epoch

    def _write(self, pc: int, a: Allocation, mine: np.ndarray, relative: np.ndarray, size: int, new) -> None:
        cta, count = self._cta, new.shape[1]
        granule, element = _granules(relative, size * count), relative // size
        if a.role == "in":
            cta.report("write to an input", pc, f"thread {mine[0]} {a.name}+{relative[0]}")
            return
        a.was_written = True
        me, place = (cta.number * 4096 + mine)[:, None], a.reader_cta[granule]
        race = (place == cta.number) & (a.reader[granule] != me) & (a.read_epoch[granule] == cta.epoch)
        race |= (place != NEVER) & (place != cta.number)
        if race.any():
            n = np.flatnonzero(race.any(1))[0]
            cta.report("global race: write of what another thread read", pc, f"thread {mine[n]} {a.name}+{relative[n]}")
        twice = self._foreign(a, granule, me).any()
        words = element[:, None] + np.arange(count)
        same = bool((a.words[size][words] == new).all()) if twice else True
        a.words[size][words] = new
        a.writer[granule], a.write_epoch[granule], a.ready[granule] = me, cta.epoch, True
        if (a.writer[granule] != me).any():  # by two threads at once
            twice, same = True, same and bool((a.words[size][words] == new).all())
        if twice and same:
            cta.note("global bytes written twice, same value", pc)
        elif twice:
            cta.report("global race: different values written", pc, f"thread {mine[0]} {a.name}+{relative[0]}")


def _granules(relative: np.ndarray, size: int) -> np.ndarray:
    return relative[:, None] // 2 + np.arange(max(1, size // 2))
