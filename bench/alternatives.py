"""Other tiles for the kernels than the launch table's, for a card to choose between: chosen by counts of instructions."""

from __future__ import annotations

from fvfast_kernels.geometry import Geometry
from fvfast_kernels.launch import Tile, tiles

# Kernel and precision -> tiles to try beside the table's, at 224 px.
TRIED: dict[tuple[str, str], tuple[Tile, ...]] = {
    ("columns", "fast"): (
        Tile({"BI": 128, "BR": 16, "BK": 32}, 8, 1),
        Tile({"BI": 64, "BR": 32, "BK": 32}, 8, 1),
        Tile({"BI": 64, "BR": 32, "BK": 32}, 4, 1),
    ),
    ("rows", "fast"): (Tile({"BI": 64, "BJ": 64, "BK": 32}), Tile({"BI": 32, "BJ": 128, "BK": 32})),
    ("rows_adjoint", "fast"): (Tile({"BI": 32, "BJ": 32, "BK": 64}, 8, 1),),
    ("columns_adjoint", "fast"): (Tile({"BI": 32, "BR": 64, "BK": 32}), Tile({"BI": 32, "BR": 128, "BK": 16})),
    ("columns", "exact"): (Tile({"BI": 128, "BR": 16, "BK": 32}, 8, 1), Tile({"BI": 64, "BR": 16, "BK": 32}, 4, 1)),
    ("rows", "exact"): (Tile({"BI": 64, "BJ": 64, "BK": 32}),),
    ("rows_adjoint", "exact"): (Tile({"BI": 32, "BJ": 32, "BK": 64}, 8, 1),),
    ("columns_adjoint", "exact"): (Tile({"BI": 32, "BR": 64, "BK": 32}, 8, 1), Tile({"BI": 32, "BR": 64, "BK": 16}, 4, 1)),
}


def candidates(geometry: Geometry, exact: bool) -> dict[str, list[Tile]]:
    """The tiles to measure for each kernel: the table's first."""
    precision = "exact" if exact else "fast"
    return {
        name: [tile, *(other for other in TRIED.get((name, precision), ()) if other != tile)]
        for name, tile in tiles(geometry, exact).items()
    }
