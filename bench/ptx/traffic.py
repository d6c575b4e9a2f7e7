"""Bytes, sectors and bank cycles of memory instructions, from the addresses of the lanes."""

from __future__ import annotations

from collections import Counter

import numpy as np


class Traffic(Counter[str]):
    """Counts by "<instruction> bytes", "... cycles", "... conflict-free", "... sectors", "... instructions"."""

    def shared(self, kind: str, who: np.ndarray, at: np.ndarray, size: int, lanes: int | None = None) -> None:
        """Cycles of the 32 banks of four bytes for one access to shared memory.

        kind: the instruction. who, at: threads and their addresses. size: bytes a thread.
        lanes: how many are served at once; 32, 16 or 8 by the size unless given.
        """
        words = max(1, size // 4)
        served = lanes or 32 // words
        group = who // 32 * (32 // served) + who % 32 // served
        word = (at.astype(np.int64) // 4)[:, None] + np.arange(words)
        pairs = np.unique(group[:, None] * (1 << 32) + word)
        banks, counts = np.unique((pairs >> 32) * 32 + (pairs & 31), return_counts=True)
        worst = np.zeros(int(banks.max()) // 32 + 1, np.int64)
        np.maximum.at(worst, banks // 32, counts)
        self[f"{kind} cycles"] += int(worst.sum())
        # Without conflicts every group that is served takes one cycle.
        self[f"{kind} conflict-free"] += int((worst > 0).sum())
        self[f"{kind} bytes"] += who.size * size

    def globally(self, kind: str, who: np.ndarray, at: np.ndarray, size: int) -> None:
        """Sectors of 32 bytes that the warps of one access to global memory touch."""
        self[f"{kind} bytes"] += who.size * size
        self[f"{kind} sectors"] += np.unique((who // 32) * (1 << 48) + (at.astype(np.int64) >> 5)).size
        self[f"{kind} instructions"] += np.unique(who // 32).size

    def shared_cycles(self, conflicts: bool = True) -> float:
        """All cycles of shared memory, those in which matrix products read it included."""
        ending = " cycles" if conflicts else "conflict-free"
        return sum(n for key, n in self.items() if key.endswith(ending)) + self["wgmma shared bytes"] / 128

    def conflicts(self) -> float:
        """Shared-memory cycles over those without bank conflicts."""
        return self.shared_cycles() / max(1.0, self.shared_cycles(conflicts=False))
