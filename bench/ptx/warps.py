"""Instructions by which the lanes of a warp exchange values."""

from __future__ import annotations

import numpy as np

from bench.ptx.findings import Cta


class Warps:
    """shfl, redux and vote of one CTA, with all 32 lanes taking part."""

    def __init__(self, cta: Cta):
        self._cta = cta

    def whole(self, pc: int, mask) -> None:
        """bar.warp.sync."""
        self._cta.whole(pc, mask)

    def shuffle(self, pc: int, mask, mode: str, value, shift, clamp, members) -> np.ndarray:
        """shfl.sync: each lane's value from another lane, its own where that is none."""
        self._cta.whole(pc, mask)
        edge = 0 if mode == "up" else 31
        if (members.view(np.int32) != -1).any() or not (clamp == edge).all():
            self._cta.report("shuffle of part of a warp (not modelled)", pc)
        lane, n = self._cta.lane & 31, shift.astype(np.int64)
        source = {"bfly": lane ^ n, "idx": n & 31, "up": lane - n, "down": lane + n}[mode]
        source = np.where((source < 0) | (source > 31), lane, source)
        return value[(self._cta.lane & ~31) + source]

    def reduce(self, pc: int, mask, function: np.ufunc, value) -> np.ndarray:
        """redux.sync: one value of all lanes."""
        self._cta.whole(pc, mask)
        return np.repeat(function.reduce(value.reshape(-1, 32), 1), 32)
