"""A PTX machine: runs a compiled kernel on the CPU, one CTA at a time, all its threads at once in numpy.

    memory = Memory()                           # add() gives an array an address
    kernel = Kernel(ptx, shared_bytes)
    kernel.launch(memory, grid, parameters)     # every CTA, or those named
    kernel.findings.violations                  # what was wrong

A register is one array with a value for each thread. Straight-line code between labels, jumps and barriers is a
segment, translated to one Python function over these arrays. Threads that part ways are run lowest segment first; a
barrier brings them together. Not modelled: time, caches, ptxas, the order in which weak memory shows writes.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np

from bench.ptx.arithmetic import DTYPES, POISON, STORAGE, bits
from bench.ptx.dataflow import check_products, check_registers
from bench.ptx.findings import Cta, Findings
from bench.ptx.global_memory import GlobalAccess, Memory
from bench.ptx.matrices import Matrices
from bench.ptx.program import SPECIAL, Program
from bench.ptx.shared_memory import SharedMemory
from bench.ptx.traffic import Traffic
from bench.ptx.translate import Translator
from bench.ptx.warps import Warps

Place = tuple[int, int, int]


class Kernel:
    """A translated kernel and what its runs found.

    Args:
        text: PTX with one entry function.
        shared: bytes of shared memory that a launch asks for.
        truncate: see `bench.ptx.matrices.Matrices`.
        noise: a seed of random errors, of the documented size, for approximate instructions; 0 leaves them exact.
        measure: whether to count bytes, sectors and bank cycles.
    Raises: NotImplementedError, which names the first instruction that is not covered.
    """

    def __init__(self, text: str, shared: int, *, truncate: int = 0, noise: int = 0, measure: bool = False):
        self.program = Program(text)
        self.shared, self.truncate = shared, truncate
        self.findings = Findings(self.program)
        self.traffic = Traffic() if measure else None
        self.noise = np.random.default_rng(noise) if noise else None
        self.issues = np.zeros(len(self.program.code), np.int64)  # warp instructions, by instruction
        self.translator = Translator(self.program)
        self.translator.cover()
        check_registers(self.program, self.findings)
        check_products(self.program, self.findings)

    def launch(self, memory: Memory, grid: Sequence[int], parameters: Sequence, ctas: Iterable[Place] | None = None):
        """Runs the CTAs of a grid of up to three dimensions, or those listed.

        parameters: numbers, addresses among them, in the entry's order.
        """
        names = self.program.parameters
        if len(parameters) != len(names):
            raise ValueError(f"{self.program.name} takes {len(names)} parameters, not {len(parameters)}.")
        values = {name: _parameter(kind, value) for (name, kind), value in zip(names, parameters, strict=True)}
        for allocation in memory.allocations:
            allocation.new_launch()
        x, y, z = (*grid, 1, 1)[:3]
        everywhere = ((a, b, c) for c in range(z) for b in range(y) for a in range(x))
        for at in everywhere if ctas is None else ctas:
            with np.errstate(all="ignore"):
                Run(self, memory, values, at, (x, y, z)).run()


class Run:
    """One CTA of a kernel: its registers, its parts, and which threads are where."""

    def __init__(self, kernel: Kernel, memory: Memory, values: dict[str, np.ndarray], at: Place, grid: Place):
        self._kernel, self._program, self.values = kernel, kernel.program, values
        self._cta = Cta(kernel.program, kernel.findings, kernel.traffic, at, grid)
        self.memory = GlobalAccess(memory, self._cta)
        self.shared = SharedMemory(self._cta, kernel.shared, self.memory)
        self.matrices = Matrices(self._cta, self.shared, kernel.truncate)
        self.exchange = Warps(self._cta)
        self._registers = self._initial_registers(at, grid)
        # Threads by the segment that they are at (None: all), and those that wait at a barrier.
        self._ready: dict[int, np.ndarray | None] = {0: None}
        self._waiting: dict[int, np.ndarray | None] = {}

    def _initial_registers(self, at: Place, grid: Place) -> list[np.ndarray]:
        threads, lane = self._program.threads, self._cta.lane
        special = {"%tid.x": lane, "%laneid": lane & 31, "%warpid": lane // 32, "%ntid.x": threads}
        special |= {"%tid.y": 0, "%tid.z": 0, "%ntid.y": 1, "%ntid.z": 1}
        special |= {f"%ctaid.{axis}": value for axis, value in zip("xyz", at, strict=True)}
        special |= {f"%nctaid.{axis}": value for axis, value in zip("xyz", grid, strict=True)}
        out = []
        for name, (_, width) in self._program.registers.items():
            kind = STORAGE[width]
            out.append(np.full(threads, special[name] if SPECIAL.match(name) else POISON[kind], kind))
        return out

    def run(self) -> None:
        """Until every thread has returned."""
        while self._ready or self._waiting:
            if not self._ready:
                self._release()
                continue
            segment = min(self._ready)
            mask = self._ready.pop(segment)
            first, last = self._program.starts[segment], self._program.ends[segment] - 1
            active = self._program.warps if mask is None else int(mask.reshape(-1, 32).any(1).sum())
            self._kernel.issues[first : last + 1] += active
            if self._program.code[first].is_barrier:
                _join(self._waiting, segment, mask)
                continue
            translator = self._kernel.translator
            translator.function(segment, mask is not None)(self._registers, translator.constants, self, mask)
            self._jump(segment, last, mask)
        if self.shared.copies_left:
            self._cta.note("asynchronous copies not waited for at the end", len(self._program.code) - 1)

    def _release(self) -> None:
        """All threads that are left wait: the barrier opens."""
        if len(self._waiting) > 1:
            places = [self._program.starts[n] for n in sorted(self._waiting)]
            self._cta.report("barrier reached at different places", places[0], str(places))
        self._cta.epoch += 1
        for segment, mask in self._waiting.items():
            _join(self._ready, segment + 1, mask)
        self._waiting = {}

    def _jump(self, segment: int, last: int, mask: np.ndarray | None) -> None:
        """Sends the threads of a segment on, by its last instruction."""
        i = self._program.code[last]
        if not i.jumps:
            _join(self._ready, segment + 1, mask)
            return
        live = np.ones(self._program.threads, bool) if mask is None else mask
        taken = live
        if i.guard:
            value = self._registers[self._program.registers[i.guard][0]]
            taken = live & (~value if i.negated else value)
        if i.parts[0] == "bra" and taken.any():
            _join(self._ready, self._program.at[self._program.labels[i.operands[0]]], _plain(taken))
        if (live & ~taken).any():
            _join(self._ready, segment + 1, _plain(live & ~taken))

    def approximate(self, exact: np.ndarray, ulps: int, absolute: float = 0.0) -> np.ndarray:
        """The exact float32 values, or with noise some up to `ulps` or `absolute` away."""
        noise = self._kernel.noise
        if noise is None:
            return exact
        if absolute:
            return exact + (noise.uniform(-absolute, absolute, exact.shape)).astype(np.float32)
        near = (exact.view(np.int32) + noise.integers(-ulps, ulps + 1, exact.shape, np.int32)).view(np.float32)
        return np.where(np.isfinite(exact) & (np.abs(exact) > 1e-30), near, exact)


def _parameter(kind: str, value) -> np.ndarray:
    """A launch parameter as its bytes."""
    if kind[0] == "f":
        return np.array([value], DTYPES[kind])
    return np.array([int(value) & ((1 << bits(kind)) - 1)], STORAGE[bits(kind)])


def _plain(mask: np.ndarray) -> np.ndarray | None:
    return None if mask.all() else mask


def _join(groups: dict[int, np.ndarray | None], segment: int, mask: np.ndarray | None) -> None:
    """Adds threads to those at a segment."""
    if segment not in groups:
        groups[segment] = mask
        return
    there = groups[segment]
    groups[segment] = None if mask is None or there is None else _plain(there | mask)
