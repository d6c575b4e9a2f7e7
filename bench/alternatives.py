"""Tiles for the kernels beside the launch table's, for a card to choose between: the runners-up by `bench.ptx cost`.

The counts know neither latency nor how many programs wait side by side, so what lies within a third of the table's own
is worth timing. Registers and programs an SM are those of sm_90 at 224 px.
"""

from __future__ import annotations

from fvfast_kernels.blocks import Tile, divides, tiles
from fvfast_kernels.geometry import Geometry


def _columns(i: int, r: int, k: int, warps: int = 8, stages: int = 1) -> Tile:
    return Tile({"BI": i, "BR": r, "BK": k}, warps, stages)


def _rows(i: int, j: int, k: int, warps: int = 8, stages: int = 1) -> Tile:
    return Tile({"BI": i, "BJ": j, "BK": k}, warps, stages)


RUNNERS_UP: dict[tuple[str, str], tuple[Tile, ...]] = {
    ("columns", "fast"): (
        _columns(128, 16, 32),  # the same counts, 154 registers instead of 171
        _columns(128, 32, 16),  # two programs an SM (98 registers), each basis read twice as often
        _columns(64, 32, 32, warps=4),  # two programs of four warps
        _columns(64, 32, 32),  # two programs of eight warps (124 registers)
    ),
    ("rows", "fast"): (
        _rows(16, 128, 32),
        _rows(16, 128, 32, stages=3),
        _rows(32, 64, 32, stages=2),
        _rows(32, 128, 32),
    ),
    ("rows_adjoint", "fast"): (_rows(16, 32, 128, stages=2), _rows(32, 32, 64), _rows(16, 64, 64)),
    ("columns_adjoint", "fast"): (
        _columns(
            32, 64, 32
        ),  # reads each basis half as often (L2 1.53 instead of 1.59); spills on sm_80, sm_89, sm_120
        _columns(64, 128, 16),  # fewest instructions
        _columns(32, 64, 16),  # two programs an SM (128 registers)
        _columns(16, 64, 32),
    ),
    ("columns", "exact"): (_columns(128, 16, 32), _columns(128, 32, 16), _columns(64, 32, 32, warps=4)),
    ("rows", "exact"): (_rows(16, 128, 32), _rows(32, 64, 32), _rows(16, 128, 32, stages=2)),
    ("rows_adjoint", "exact"): (_rows(16, 16, 128), _rows(16, 32, 128, stages=2), _rows(32, 32, 64, warps=4)),
    ("columns_adjoint", "exact"): (
        _columns(64, 128, 16),
        _columns(32, 64, 16, warps=4),
        _columns(32, 128, 16, stages=2),
    ),
}


def candidates(geometry: Geometry, exact: bool) -> dict[str, list[Tile]]:
    """The tiles to measure for each kernel, the table's first; those that do not fit a small geometry are left out."""
    precision = "exact" if exact else "fast"
    return {
        name: [tile, *(t for t in RUNNERS_UP[name, precision] if t != tile and divides(name, t, geometry))]
        for name, tile in tiles(geometry, exact).items()
    }
