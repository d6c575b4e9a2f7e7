"""What the synthesis multiplies by: the bases of a view's rows and columns, computed once a step.

They hang on nothing but the view's zooms, so one table an image serves the three channels, every tile, and both
directions; it lies in the L2 cache between its uses. A sine costs some forty instructions, and without the tables the
four kernels would compute each of them 9 to 31 times (docs/kernels.md has the counts).

Rows of the tables are padded (`blocks.padded`) so that no reader needs a mask; what lies in the padding is finite, and
multiplied by zeros.
"""

import triton
import triton.language as tl

from fvfast_kernels.tiles import load_view, sampling_basis, split


@triton.jit
def store_basis(at, cos, sin, PLANE: tl.constexpr, EXACT: tl.constexpr):
    """The planes cos, sin in float16; in exact mode, also what that rounding left of each."""
    cos_high, cos_low = split(cos, EXACT)
    sin_high, sin_low = split(sin, EXACT)
    tl.store(at, cos_high)
    tl.store(at + PLANE, sin_high)
    if EXACT:
        tl.store(at + 2 * PLANE, cos_low)
        tl.store(at + 3 * PLANE, sin_low)


@triton.jit
def store_row_basis(
    ptr, zy, tile, H: tl.constexpr, RH: tl.constexpr, PI: tl.constexpr, PK: tl.constexpr,
    EXACT: tl.constexpr, BA: tl.constexpr, BB: tl.constexpr,
):  # fmt: skip
    """One tile of cos, sin of 2 pi k u_i / H: folded view rows i by row frequencies k."""
    i = tile // (PK // BB) * BA + tl.arange(0, BA)
    k = tile % (PK // BB) * BB + tl.arange(0, BB)
    cos, sin = sampling_basis(zy, i[:, None], k[None, :], RH, H)
    store_basis(ptr + i[:, None] * PK + k[None, :], cos, sin, PI * PK, EXACT)


@triton.jit
def store_column_basis(
    ptr, zx, tile, W: tl.constexpr, RW: tl.constexpr, PX: tl.constexpr, PJ: tl.constexpr,
    EXACT: tl.constexpr, BA: tl.constexpr, BB: tl.constexpr,
):  # fmt: skip
    """One tile of cos, -sin of 2 pi kx u_j / W: column frequencies kx by folded view columns j."""
    kx = tile // (PJ // BB) * BA + tl.arange(0, BA)
    j = tile % (PJ // BB) * BB + tl.arange(0, BB)
    cos, sin = sampling_basis(zx, j[None, :], kx[:, None], RW, W)
    store_basis(ptr + kx[:, None] * PJ + j[None, :], cos, -sin, PX * PJ, EXACT)


@triton.jit
def bases(
    views_ptr, step_ptr, rows_ptr, columns_ptr, batch,
    H: tl.constexpr, W: tl.constexpr, RH: tl.constexpr, RW: tl.constexpr,
    PI: tl.constexpr, PK: tl.constexpr, PX: tl.constexpr, PJ: tl.constexpr,
    TABLE: tl.constexpr, EXACT: tl.constexpr, BA: tl.constexpr, BB: tl.constexpr,
):  # fmt: skip
    """The row basis [B, P, PI, PK] and the column basis [B, P, PX, PJ], float16, of P = 2 or 4 planes.

    A program: a tile [BA, BB] of one of them.
    """
    image = tl.program_id(1).to(tl.int64)
    _, _, zy, zx, _ = load_view(views_ptr, step_ptr, tl.program_id(1), batch, TABLE)
    OF_ROWS: tl.constexpr = PI // BA * (PK // BB)
    rows_ptr += image * ((4 if EXACT else 2) * PI * PK)
    columns_ptr += image * ((4 if EXACT else 2) * PX * PJ)
    if tl.program_id(0) < OF_ROWS:
        store_row_basis(rows_ptr, zy, tl.program_id(0), H, RH, PI, PK, EXACT, BA, BB)
    else:
        store_column_basis(columns_ptr, zx, tl.program_id(0) - OF_ROWS, W, RW, PX, PJ, EXACT, BA, BB)
