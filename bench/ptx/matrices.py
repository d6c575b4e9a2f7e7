"""Instructions of tensor cores: ldmatrix, stmatrix, mma.sync, and wgmma with operands in shared memory."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from bench.ptx import fragments
from bench.ptx.arithmetic import U16, U32
from bench.ptx.findings import Cta
from bench.ptx.global_memory import NEVER
from bench.ptx.shared_memory import SEVERAL, SHARED_BASE, SharedMemory

_SPAN = {0: 16, 1: 128, 2: 64, 3: 32}  # bytes of a swizzled row, by a descriptor's last two bits


class Matrices:
    """The tensor cores of one CTA.

    truncate: how many products are summed at a time where sums are truncated; 0 rounds each sum once.
    """

    def __init__(self, cta: Cta, shared: SharedMemory, truncate: int = 0):
        self._cta, self._shared, self._truncate = cta, shared, truncate
        self._open: list[np.ndarray] = []  # granules that the products since the last commit read
        self._groups: list[list[np.ndarray]] = []

    def _dot(self, a: np.ndarray, b: np.ndarray, c: np.ndarray) -> np.ndarray:
        if self._truncate:
            return fragments.truncated_product(a, b, c, self._truncate)
        return fragments.rounded_product(a, b, c)

    # 8x8 matrices of 16-bit elements; eight lanes give the addresses of a matrix' rows.

    def load(self, pc: int, mask, address: np.ndarray, count: int, transposed: bool) -> np.ndarray:
        """ldmatrix: [count, threads] words."""
        cta = self._cta
        active = cta.whole(pc, mask)
        out = np.zeros((count, cta.threads), U32)
        lanes = (active[:, None] * 32 + np.arange(8 * count)).reshape(-1)
        who, relative = self._shared.locate(pc, "ldmatrix", lanes, address[lanes], 16, lanes=8)
        if who.size != lanes.size:
            return out
        self._shared.reading(pc, who, relative, 16, by_lane=False)
        rows = self._shared.words[2][relative[:, None] // 2 + np.arange(8)].reshape(-1, count, 8, 8)
        if transposed:
            rows = rows.swapaxes(2, 3)
        words = np.ascontiguousarray(rows).view(U32).reshape(-1, count, 32)  # lane = row * 4 + pair
        for n in range(count):
            out[n].reshape(-1, 32)[active] = words[:, n]
        return out

    def store(self, pc: int, mask, address: np.ndarray, values: Sequence[np.ndarray], transposed: bool) -> None:
        """stmatrix."""
        active, count = self._cta.whole(pc, mask), len(values)
        rows = fragments.pick(values, active).view(U16).reshape(-1, count, 8, 8)
        if transposed:
            rows = rows.swapaxes(2, 3)
        lanes = (active[:, None] * 32 + np.arange(8 * count)).reshape(-1)
        who, relative = self._shared.locate(pc, "stmatrix", lanes, address[lanes], 16, lanes=8)
        if who.size == lanes.size:
            self._shared.write(pc, who, relative, 2, rows.reshape(-1, 8))

    def mma(self, pc: int, mask, a: Sequence, b: Sequence, c: Sequence, kind: str) -> np.ndarray:
        """mma.sync m16n8: the four registers of D."""
        active = self._cta.whole(pc, mask)
        left, right = fragments.matrix_a(a, active, kind), fragments.matrix_b(b, active, kind)
        out = self._dot(left, right, fragments.matrix_c(c, active))
        return fragments.registers_c(out, active, self._cta.warps)

    # Products of a warpgroup, whose B (and perhaps A) lies in shared memory as a descriptor says.

    def fence_proxy(self, mask) -> None:
        """Writes that the executing threads made, or that a barrier made visible, become visible to products."""
        mine = np.ones(self._cta.threads, bool) if mask is None else mask
        s = self._shared
        s.dirty &= ~((s.write_epoch < self._cta.epoch) | mine[s.writer])

    def wgmma(self, pc: int, mask, a, transposed_a: bool, b, transposed_b: bool, accumulate, c, columns: int):
        """wgmma m64k16: the registers of D. a: registers, or descriptors like b."""
        cta = self._cta
        out = np.zeros((len(c), cta.threads), U32)
        for group in cta.whole(pc, mask, 128):
            active = np.arange(4 * group, 4 * group + 4)
            lead, these = 128 * group, slice(128 * group, 128 * group + 128)
            if len(np.unique(b[these])) != 1 or len(np.unique(accumulate[these])) != 1:
                cta.report("descriptor or scale differs within a warpgroup", pc)
            right = self._operand(pc, b[lead], columns, transposed_b)
            if isinstance(a, tuple):
                left = fragments.matrix_a(a, active).reshape(64, 16)
            else:
                left = self._operand(pc, a[lead], 64, transposed_a).T
            total = fragments.matrix_c(c, active).reshape(64, columns)
            if not accumulate[lead]:
                total = np.zeros_like(total)
            out |= fragments.registers_c(self._dot(left, right, total).reshape(4, 16, columns), active, cta.warps)
        return out

    def _operand(self, pc: int, descriptor, outer: int, contiguous_outer: bool) -> np.ndarray:
        """The [16, outer] matrix at a descriptor, outer being N or M; which of the two is contiguous varies."""
        cta, s, d = self._cta, self._shared, int(descriptor)
        start, leading, stride = (d & 0x3FFF) << 4, (d >> 16 & 0x3FFF) << 4, (d >> 32 & 0x3FFF) << 4
        if d >> 49 & 7:
            cta.report("descriptor with a base offset (not modelled)", pc, hex(d))
        span = _SPAN[d >> 62]
        k, n = np.arange(16)[:, None], np.arange(outer)[None, :]
        if not contiguous_outer:
            chunk = leading if span == 16 else 16
            offset = n % 8 * span + n // 8 * stride + k % 8 * 2 + k // 8 * chunk
        elif span == 16:
            offset = n % 8 * 2 + n // 8 * stride + k % 8 * 16 + k // 8 * leading
        else:
            per = span // 2
            offset = n % per * 2 + n // per * leading + k % 8 * span + k // 8 * stride
        address = start + offset
        address = address ^ ((address >> 7 & (span // 16 - 1)) << 4)
        relative = (address - SHARED_BASE).reshape(-1)
        if (relative < 0).any() or (relative + 2 > s.size).any():
            cta.report("out of bounds, shared (descriptor)", pc, hex(d))
            relative = np.clip(relative, 0, s.size - 2)
        granule = relative // 2
        for bad, what in (
            (s.write_epoch[granule] == NEVER, "read of unwritten shared memory"),
            (s.in_flight[granule], "shared race: read of a copy in flight"),
            (s.write_epoch[granule] == cta.epoch, "shared race: read of another warp's write"),
            (s.dirty[granule], "no proxy fence between a write and a matrix product"),
        ):
            if bad.any():
                cta.report(what, pc, f"descriptor {d:#x}")
        s.products[granule] += 1
        self._open.append(granule)
        if cta.traffic is not None:
            cta.traffic["wgmma shared bytes"] += 2 * granule.size
        return s.words[2][granule].view(np.float16).reshape(16, outer)

    def commit(self) -> None:
        self._groups.append(self._open)
        self._open = []

    def wait(self, left: int) -> None:
        """Until at most `left` groups of products are in flight."""
        done = self._groups[: max(0, len(self._groups) - left)]
        self._groups = self._groups[len(done) :]
        for granule in (granule for group in done for granule in group):
            self._shared.products[granule] -= 1
            self._shared.read_epoch[granule] = self._cta.epoch
            self._shared.reader[granule] = SEVERAL
