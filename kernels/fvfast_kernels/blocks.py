"""Block sizes of the kernels, a table by shape without tuning, and the extents that their operands are padded to."""

from __future__ import annotations

from dataclasses import dataclass

from fvfast_kernels.geometry import Geometry


@dataclass(frozen=True)
class Tile:
    """Block sizes of one kernel (its own constants' names), warps and pipeline stages."""

    blocks: dict[str, int]
    num_warps: int = 8
    num_stages: int = 1

    def options(self) -> dict[str, int]:
        return {**self.blocks, "num_warps": self.num_warps, "num_stages": self.num_stages}


def tiles(geometry: Geometry, exact: bool) -> dict[str, Tile]:
    """The table: what `bench.ptx cost` found cheapest on sm_90 that spills nowhere; docs/kernels.md has the ladder.

    One pipeline stage but in fast `rows`: words of 4 bytes that are copied ahead land in shared memory in an order
    that 32 lanes cannot read at once. Eight warps only where both tensor core layouts of a chain of products fit the
    tile: otherwise sums would pass through shared memory between the products.
    """

    def cut(block: int, size: int) -> int:
        """A block no larger than needed, and no smaller than the 16 that tensor cores take."""
        return min(block, max(16, 1 << (size - 1).bit_length()))

    half_h, half_w = (geometry.out_height + 1) // 2, (geometry.out_width + 1) // 2
    r, k = geometry.rows, geometry.columns
    columns = {"BI": cut(128, half_h), "BR": cut(32, r), "BK": cut(32, k)}
    few = exact or half_w <= 128  # rows of the view a program, so that two programs fit into an SM
    rows = {
        "BI": cut(16 if few else 32, geometry.out_height),
        "BJ": cut(128, half_w),
        "BK": cut(16 if exact else 32, k),
    }
    rows_adjoint = {"BI": cut(16, geometry.out_height), "BJ": cut(32 if exact else 16, half_w), "BK": cut(128, k)}
    columns_adjoint = {"BI": cut(32, half_h), "BR": cut(128, r), "BK": cut(16, k)}
    return {
        "columns": Tile(columns, num_warps=8 if columns["BI"] == 128 else 4),
        "rows": Tile(rows, num_stages=1 if exact else 2),
        "rows_adjoint": Tile(rows_adjoint),
        "columns_adjoint": Tile(columns_adjoint),
    }


def padded_columns(geometry: Geometry) -> int:
    """Columns of the intermediate Y: a multiple of 8, so that its rows begin at 16-byte boundaries."""
    return -(-geometry.columns // 8) * 8


def half_width(geometry: Geometry) -> int:
    """Pixels of a kept half row of the sigmoid: a multiple of 8, for 16-byte words of float16."""
    return -(-((geometry.out_width + 1) // 2) // 8) * 8


def padded(size: int) -> int:
    """An extent of a basis that whole tiles of any block size divide: a power of two, or a multiple of 128."""
    return max(16, 1 << (size - 1).bit_length()) if size <= 128 else -(-size // 128) * 128


def padded_sizes(geometry: Geometry) -> dict[str, int]:
    """Extents of the bases: folded view rows and row frequencies, column frequencies and folded view columns."""
    g = geometry
    sizes = {"PI": (g.out_height + 1) // 2, "PK": g.rows, "PX": g.columns, "PJ": (g.out_width + 1) // 2}
    return {name: padded(size) for name, size in sizes.items()}


# Which padded extent each kernel's blocks divide, in the order of the blocks; None: rows of the view, which are masked.
EXTENTS = {
    "columns": ("PI", "PK", "PX"),
    "rows": (None, "PJ", "PX"),
    "rows_adjoint": (None, "PJ", "PX"),
    "columns_adjoint": ("PI", "PK", "PX"),
}


def divides(name: str, tile: Tile, geometry: Geometry) -> bool:
    """Whether a kernel's blocks divide the bases that it reads without a mask."""
    sizes = padded_sizes(geometry)
    pairs = zip(tile.blocks.values(), EXTENTS[name], strict=True)
    return all(extent is None or sizes[extent] % block == 0 for block, extent in pairs)
