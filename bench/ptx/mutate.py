"""Does the emulator notice a broken kernel? Faults are planted one at a time into the compiled kernels of a small case.

A barrier, wait or fence is left out, a predicate dropped, an address moved; then the first and the last program of the
kernel are run. Some faults are harmless: a barrier may be one too many, a predicate of a load may guard bytes that are
multiplied by zero, a wait may be repeated before anything depends on it.
"""

from __future__ import annotations

import argparse
import json
import re
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from bench.ptx.cases import Case
from bench.ptx.compiling import compile_to_ptx
from bench.ptx.device import Device, parameters
from bench.ptx.global_memory import Allocation, Memory
from bench.ptx.machine import Kernel, Place
from bench.ptx.trial import Trial
from bench.report import table

OUTCOMES = ("found", "wrong numbers", "not covered", "unnoticed")
# Their loops go round more than once, and their last tiles are cut: copies are pipelined, predicates needed.
CASES = {"fast": Case(96, 80, (56, 49), "fast", seed=3), "exact": Case(33, 40, (33, 40), "exact", shear=False)}
_PREDICATED = re.compile(r"@!?%p\d+ ((ld|st)\.global.*)")
_DROPPED = {
    "bar.sync": "barrier",
    "cp.async.wait_group": "wait for copies",
    "fence.proxy.async": "proxy fence",
    "wgmma.fence": "wgmma.fence",
    "wgmma.wait_group": "wait for products",
}


@dataclass(frozen=True)
class Mutant:
    """A program with one fault, at a line of its text."""

    kind: str
    line: int
    text: str


def mutants(text: str) -> Iterator[Mutant]:
    """Every fault that can be planted into a PTX text."""
    lines = text.splitlines()

    def broken(kind: str, n: int, line: str) -> Mutant:
        return Mutant(kind, n + 1, "\n".join([*lines[:n], line, *lines[n + 1 :]]))

    for n, line in enumerate(lines):
        code = line.split("//")[0].strip()
        for start, what in _DROPPED.items():
            if code.startswith(start):
                yield broken(f"{what} left out", n, "")
        if match := _PREDICATED.match(code):
            yield broken(f"{'load' if match[2] == 'ld' else 'store'}'s predicate dropped", n, match[1])
        if re.match(r"(@!?%p\d+ )?(ld|st)\.shared", code) and (moved := _moved(line, 4096)) != line:
            yield broken("shared address 4096 further", n, moved)
        if code.startswith("ldmatrix") and (moved := _moved(line, 8)) != line:
            yield broken("ldmatrix address 8 further", n, moved)


def _moved(line: str, by: int) -> str:
    """A line with the offset of its address increased."""
    address = re.compile(r"\[\s*(%\w+)\s*(?:\+\s*(\d+)\s*)?\]")
    return address.sub(lambda found: f"[{found[1]}+{int(found[2] or 0) + by}]", line)


@dataclass(frozen=True)
class Recorded:
    """A launch as it ran: its kernel's text, and the memory before and after its first and last program.

    before: each allocation with its bytes, and which of them held anything. after: their bytes.
    """

    kernel: str
    text: str
    shared: int
    grid: tuple[int, ...]
    parameters: list[float]
    memory: Memory
    before: list[tuple[Allocation, np.ndarray, np.ndarray]]
    after: list[np.ndarray]

    def run(self, text: str) -> Kernel:
        """First and last program of a kernel, on the memory as it was."""
        self.restore()
        kernel = Kernel(text, self.shared)
        kernel.launch(self.memory, self.grid, self.parameters, ends(self.grid))
        return kernel

    def restore(self) -> None:
        for allocation, data, ready in self.before:
            allocation.restore(data, ready)

    def outcome(self, mutant: Mutant) -> str:
        """One of OUTCOMES."""
        try:
            kernel = self.run(mutant.text)
        except NotImplementedError:
            return "not covered"
        if kernel.findings.violations:
            return "found"
        same = all((one.data == data).all() for (one, _, _), data in zip(self.before, self.after, strict=True))
        return "unnoticed" if same else "wrong numbers"


def ends(grid: tuple[int, ...]) -> list[Place]:
    """The first and the last program."""
    return sorted({(0, 0, 0), (grid[0] - 1, grid[1] - 1, 0)})


@dataclass
class Recorder(Device):
    """A device that keeps each launch with the memory around its first and last program."""

    recorded: list[Recorded] = field(default_factory=list)

    def run(self, launch: Any, ctas: Iterable[Place] | None = None) -> None:
        text, shared = compile_to_ptx(launch, self.arch)
        before = [(a, a.data.copy(), a.ready.copy()) for a in self.memory.allocations]
        after: list[np.ndarray] = []
        values = parameters(launch, self.address)
        one = Recorded(launch.kernel.__name__, text, shared, launch.grid, values, self.memory, before, after)
        one.run(text)
        after += [a.data.copy() for a in self.memory.allocations]
        one.restore()
        self.recorded.append(one)
        super().run(launch, ctas)


def main(arguments: list[str] | None = None) -> int:
    formatter = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser("python -m bench.ptx mutate", description=__doc__, formatter_class=formatter)
    parser.add_argument("--arch", type=int, default=90, help="90 for sm_90")
    parser.add_argument("--precision", default="fast", choices=("fast", "exact"))
    parser.add_argument("--kernel", nargs="+", default=[], help="some kernels only")
    parser.add_argument("--only", nargs="+", default=[""], metavar="TEXT", help="kinds of fault that hold one of these")
    parser.add_argument("--limit", type=int, default=4, help="faults of a kind in a kernel, drawn at random")
    parser.add_argument("--json", default="", metavar="FILE")
    o = parser.parse_args(arguments)
    device = Recorder(o.arch)
    Trial(CASES[o.precision], device, lambda launch: ends(launch.grid)).run()
    counts: dict[str, Counter[str]] = {}
    unnoticed, random = [], np.random.default_rng(0)
    for one in device.recorded:
        if o.kernel and one.kernel not in o.kernel:
            continue
        kinds: dict[str, list[Mutant]] = {}
        for mutant in mutants(one.text):
            if any(text in mutant.kind for text in o.only):
                kinds.setdefault(mutant.kind, []).append(mutant)
        for kind, some in kinds.items():
            for n in random.permutation(len(some))[: o.limit]:
                outcome = one.outcome(some[n])
                counts.setdefault(kind, Counter())[outcome] += 1
                if outcome == "unnoticed":
                    unnoticed.append(f"{one.kernel}: {kind}, ptx line {some[n].line}")
    rows = [[kind, *(str(count[outcome]) for outcome in OUTCOMES)] for kind, count in sorted(counts.items())]
    print(table(["fault", *OUTCOMES], rows))
    for text in unnoticed:
        print(f"unnoticed: {text}")
    if o.json:
        with open(o.json, "w") as file:
            json.dump({"counts": counts, "unnoticed": unnoticed}, file, indent=1)
    return 0
