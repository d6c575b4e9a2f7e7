"""What the machine has to say about a run: violations, and notes of what is odd but harmless."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

import numpy as np

from bench.ptx.program import Program
from bench.ptx.traffic import Traffic


@dataclass
class Findings:
    """Violations and notes by (kind, place), counted, with the first example of each violation."""

    program: Program
    violations: Counter[tuple[str, str]] = field(default_factory=Counter)
    notes: Counter[tuple[str, str]] = field(default_factory=Counter)
    examples: dict[tuple[str, str], str] = field(default_factory=dict)

    def report(self, kind: str, pc: int, detail: str) -> None:
        key = (kind, self.program.where(pc))
        self.violations[key] += 1
        self.examples.setdefault(key, detail)

    def note(self, kind: str, pc: int) -> None:
        self.notes[(kind, self.program.where(pc))] += 1

    def lines(self) -> list[str]:
        """A line for each violation."""
        return [f"{kind} at {at} x{n} [{self.examples[kind, at]}]" for (kind, at), n in self.violations.items()]

    def kinds(self) -> list[str]:
        return sorted({kind for kind, _ in self.violations})


class Cta:
    """The CTA that is running, as the parts of the machine see it.

    Attributes:
        number: its place in the grid.
        epoch: how many barriers it has passed.
        lane: the numbers of its threads.
        traffic: where bytes and bank cycles are counted, or None.
    """

    def __init__(self, program: Program, findings: Findings, traffic: Traffic | None, at: tuple[int, int, int], grid):
        self.program, self.findings, self.traffic, self.at = program, findings, traffic, at
        self.number, self.epoch = at[0] + grid[0] * (at[1] + grid[1] * at[2]), 0
        self.threads, self.warps = program.threads, program.warps
        self.lane = np.arange(self.threads, dtype=np.int64)

    def report(self, kind: str, pc: int, detail: str = "") -> None:
        self.findings.report(kind, pc, f"cta {self.at}: {detail}")

    def note(self, kind: str, pc: int) -> None:
        self.findings.note(kind, pc)

    def select(self, mask: np.ndarray | None) -> np.ndarray:
        """The numbers of the threads that a mask leaves."""
        return self.lane if mask is None else np.flatnonzero(mask)

    def whole(self, pc: int, mask: np.ndarray | None, group: int = 32) -> np.ndarray:
        """The numbers of the active warps (or warpgroups of 128); one that is partly active is a violation."""
        if mask is None:
            return np.arange(self.threads // group)
        part = mask.reshape(-1, group)
        if (part.any(1) & ~part.all(1)).any():
            self.report("warp instruction with inactive lanes", pc)
        return np.flatnonzero(part.any(1))
