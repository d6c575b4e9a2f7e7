"""Launchers: what the kernels are called with.

Nothing here synchronises, allocates on the device or reads a tensor's values, so that everything can be
captured in a CUDA graph after one warm-up call at the same shapes.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from fvfast_kernels import adam, adjoint, bases, synthesis, warping
from fvfast_kernels.blocks import Tile, divides, half_width, padded_columns, padded_sizes, tiles
from fvfast_kernels.geometry import Epilogue, Geometry

# Triton's key of a kernel in its cache hangs on which kernels of the process had theirs made before, since functions
# that they share are looked at once. Made here, in one order, what one process compiled another finds.
for _kernel in (
    *(bases.bases, synthesis.columns, synthesis.rows, adjoint.rows_adjoint, adjoint.columns_adjoint),
    *(warping.warp, warping.warp_adjoint, adam.adam),
):
    getattr(_kernel, "cache_key", None)  # the interpreter's have none


@dataclass(frozen=True)
class Launch:
    """One kernel call: run it, or look at what it would be compiled with."""

    kernel: Any  # a function under triton.jit
    grid: tuple[int, ...]
    arguments: tuple  # in the kernel's order
    constants: dict[str, int | bool]  # its constexpr arguments, num_warps and num_stages

    def run(self) -> None:
        self.kernel[self.grid](*self.arguments, **self.constants)


def run(launches: Iterable[Launch], device: torch.device) -> None:
    """Run launches in their order on a device, which need not be the current one."""
    with torch.cuda.device(device) if device.type == "cuda" else nullcontext():
        for launch in launches:
            launch.run()


def empty_y(batch: int, geometry: Geometry, device: torch.device | str) -> Tensor:
    shape = (batch, 3, 2, geometry.out_height, padded_columns(geometry))
    return torch.empty(shape, dtype=torch.float32, device=device)


def empty_sigmoid(batch: int, geometry: Geometry, precision: str, like: Tensor) -> Tensor:
    """The sigmoid as `rows` keeps it: its right and its left half, each from the middle outwards, in padded rows.

    [B, 3, 2, Rh, HP], float32 (exact) or float16 (fast).
    """
    kind = torch.float32 if precision == "exact" else torch.float16
    return like.new_empty((batch, 3, 2, geometry.out_height, half_width(geometry)), dtype=kind)


@dataclass
class Workspace:
    """What a synthesis keeps between its kernels: its views' bases, Y, which the adjoint overwrites, the sigmoid."""

    y: Tensor  # [B, 3, 2, Rh, KP] float32
    sigmoid: Tensor  # [B, 3, 2, Rh, HP], see `empty_sigmoid`
    row_basis: Tensor  # [B, 2 or 4, PI, PK] float16, see bases.py
    column_basis: Tensor  # [B, 2 or 4, PX, PJ] float16

    @classmethod
    def allocate(
        cls, batch: int, geometry: Geometry, precision: str, device: torch.device | str, sigmoid: Tensor | None = None
    ) -> Workspace:
        """A workspace; its sigmoid may be one that was kept."""
        y = empty_y(batch, geometry, device)
        if sigmoid is None:
            sigmoid = empty_sigmoid(batch, geometry, precision, y)
        i, k, x, j = padded_sizes(geometry).values()
        planes = 4 if precision == "exact" else 2
        row_basis = y.new_empty((batch, planes, i, k), dtype=torch.float16)
        column_basis = y.new_empty((batch, planes, x, j), dtype=torch.float16)
        return cls(y, sigmoid, row_basis, column_basis)


def empty_view(batch: int, geometry: Geometry, layout: str, dtype: torch.dtype, device) -> Tensor:
    """An uninitialised view in one of the layouts of `synthesize`."""
    channels = 4 if layout == "nhwc4" else 3
    shape = (batch, channels, geometry.out_height, geometry.out_width)
    kind = torch.contiguous_format if layout == "nchw" else torch.channels_last
    return torch.empty(shape, dtype=dtype, device=device, memory_format=kind)


@dataclass(frozen=True)
class Source:
    """What is synthesised: all that both directions read."""

    spectrum: Tensor  # [B, 3, 2, H, M] float32; with a magnitude, its phase [B, 3, H, M]
    envelope: Tensor  # [H, M] or [B, H, M]
    views: Tensor  # [B, 5]; with a step, a table [steps, B, 5]
    step: Tensor | None = None  # one int32 on the device: which row of the table
    magnitude: Tensor | None = None  # [3, H, M] or [B, 3, H, M]
    shear: bool = True  # whether any view may have a shear


@dataclass(frozen=True)
class Plan:
    """What is compiled into the kernels, and the constants of the epilogue."""

    geometry: Geometry
    epilogue: Epilogue
    exact: bool
    other_tiles: dict[str, Tile] | None = None  # in place of the table's, kernel by kernel: for measuring others

    def tiles(self) -> dict[str, Tile]:
        """The tile of every kernel. ValueError for one whose blocks do not divide the padded bases."""
        chosen = tiles(self.geometry, self.exact) | (self.other_tiles or {})
        for name, tile in chosen.items():
            if not divides(name, tile, self.geometry):
                raise ValueError(f"{name}: blocks {tile.blocks} do not divide {padded_sizes(self.geometry)}")
        return chosen

    def sizes(self) -> dict[str, int]:
        g = self.geometry
        return {"H": g.height, "W": g.width, "RH": g.out_height, "KP": padded_columns(g)}


def _columns_constants(source: Source, plan: Plan) -> dict[str, int | bool]:
    g = plan.geometry
    padded = {name: size for name, size in padded_sizes(g).items() if name in ("PI", "PK")}
    counts = {"ROWS": g.rows, "COLUMNS": g.columns, "ANTIALIAS": g.antialias, "SHEAR": source.shear}
    modes = {"PHASE": source.magnitude is not None, "TABLE": source.step is not None, "EXACT": plan.exact}
    return plan.sizes() | padded | counts | modes


def _rows_constants(source: Source, plan: Plan, view: Tensor) -> dict[str, int | bool]:
    g = plan.geometry
    padded = {name: size for name, size in padded_sizes(g).items() if name in ("PX", "PJ")} | {"HP": half_width(g)}
    modes = {"TABLE": source.step is not None, "EXACT": plan.exact}
    return plan.sizes() | padded | modes | {"RW": g.out_width, "MASK": g.border == "mask", "NHWC4": is_nhwc4(view)}


def _magnitude(source: Source) -> tuple[Tensor, int]:
    """The magnitude and its stride from image to image; any tensor where there is none."""
    magnitude = source.magnitude
    if magnitude is None:
        return source.spectrum, 0
    return magnitude, 0 if magnitude.dim() == 3 else magnitude.stride(0)


def _step(source: Source) -> Tensor:
    return source.views if source.step is None else source.step


def bases_launch(source: Source, workspace: Workspace, plan: Plan) -> Launch:
    """What both directions multiply by, from the views into the workspace."""
    g, sizes, batch = plan.geometry, padded_sizes(plan.geometry), workspace.y.shape[0]
    block_a, block_b = min(16, *sizes.values()), min(64, *sizes.values())
    modes = {"TABLE": source.step is not None, "EXACT": plan.exact}
    blocks = {"BA": block_a, "BB": block_b, "num_warps": 4, "num_stages": 1}
    return Launch(
        bases.bases,
        ((sizes["PI"] * sizes["PK"] + sizes["PX"] * sizes["PJ"]) // (block_a * block_b), batch),
        (source.views, _step(source), workspace.row_basis, workspace.column_basis, batch),
        {"H": g.height, "W": g.width, "RH": g.out_height, "RW": g.out_width} | sizes | modes | blocks,
    )


def forward_launches(source: Source, view: Tensor, workspace: Workspace, plan: Plan) -> tuple[Launch, ...]:
    """bases, columns, rows: from the spectrum to `view`, filling the workspace."""
    g, epilogue, batch = plan.geometry, plan.epilogue, view.shape[0]
    table, (magnitude, magnitude_stride) = plan.tiles(), _magnitude(source)
    half_h, half_w = (g.out_height + 1) // 2, (g.out_width + 1) // 2
    tile = table["columns"]
    columns = Launch(
        synthesis.columns,
        (_tiles(half_h, tile.blocks["BI"]) * _tiles(padded_columns(g), tile.blocks["BK"]), batch * 3),
        (
            *(source.spectrum, magnitude, source.envelope, source.views, _step(source)),
            *(workspace.row_basis, workspace.y),
            *(batch, envelope_stride(source.envelope), magnitude_stride),
        ),
        _columns_constants(source, plan) | tile.options(),
    )
    tile = table["rows"]
    rows = Launch(
        synthesis.rows,
        (_tiles(g.out_height, tile.blocks["BI"]) * _tiles(half_w, tile.blocks["BJ"]), batch),
        (
            *(workspace.y, source.views, _step(source), workspace.column_basis),
            *(epilogue.colour, epilogue.mean, epilogue.std),
            *(view, workspace.sigmoid, epilogue.gain, batch, *view.stride()),
        ),
        _rows_constants(source, plan, view) | {"COLUMNS": g.columns} | tile.options(),
    )
    return bases_launch(source, workspace, plan), columns, rows


@dataclass(frozen=True)
class Adam:
    """State and constants of the update that the adjoint's epilogue makes, number step + 1."""

    exp_avg: Tensor  # like the spectrum
    exp_avg_sq: Tensor  # like the spectrum
    lr: Tensor  # [B]
    betas: tuple[float, float] = (0.9, 0.999)
    eps: float = 1e-8


def adjoint_launches(
    source: Source, grad: Tensor, target: Tensor, workspace: Workspace, plan: Plan, adam: Adam | None
) -> tuple[Launch, Launch]:
    """rows_adjoint, columns_adjoint: the spectrum's gradient into `target`, or `adam`'s update there.

    The workspace holds the bases of the same views.
    """
    g, epilogue, batch = plan.geometry, plan.epilogue, grad.shape[0]
    table, (magnitude, magnitude_stride) = plan.tiles(), _magnitude(source)
    tile = table["rows_adjoint"]
    rows = Launch(
        adjoint.rows_adjoint,
        (_tiles(g.out_height, tile.blocks["BI"]) * _tiles(padded_columns(g), tile.blocks["BK"]), batch),
        (
            *(grad, workspace.sigmoid, source.views, _step(source), workspace.column_basis),
            *(epilogue.colour, epilogue.std),
            *(workspace.y, epilogue.gain, batch, *grad.stride()),
        ),
        _rows_constants(source, plan, grad) | tile.options(),
    )
    tile = table["columns_adjoint"]
    state = adam or Adam(target, target, target)
    columns = Launch(
        adjoint.columns_adjoint,
        (_tiles(g.rows, tile.blocks["BR"]) * _tiles(g.columns, tile.blocks["BK"]), batch * 3),
        (
            *(workspace.y, source.spectrum, magnitude, source.envelope, source.views, _step(source)),
            *(workspace.row_basis, target, state.exp_avg, state.exp_avg_sq, state.lr),
            *_betas(state.betas),
            *(state.eps, batch, envelope_stride(source.envelope), magnitude_stride),
        ),
        _columns_constants(source, plan) | {"ADAM": adam is not None} | tile.options(),
    )
    return rows, columns


def is_nhwc4(view: Tensor) -> bool:
    """Whether a tensor [B, 4, Rh, Rw] lies pixel by pixel in memory, so that it moves in whole pixels."""
    _, channels, height, width = view.shape
    return channels == 4 and view.stride() == (height * width * 4, 1, width * 4, 4)


def envelope_stride(envelope: Tensor) -> int:
    """Entries from one image's envelope to the next; 0 if they share it."""
    return 0 if envelope.dim() == 2 else envelope.stride(0)


def _tiles(size: int, block: int) -> int:
    return -(-size // block)


def _betas(betas: tuple[float, float]) -> tuple[float, ...]:
    """log beta1, log beta2, 1 - beta1, beta2, 1 - beta2, each rounded once."""
    beta1, beta2 = betas
    return math.log(beta1), math.log(beta2), 1 - beta1, beta2, 1 - beta2


# --- Warp and Adam.

PIXELS, WARP_CHANNELS, ENTRIES = 256, 4, 1024


def warp_launch(image: Tensor, matrix: Tensor, out: Tensor, border: str | float) -> Launch:
    """out [B, C, Rh, Rw] from image [B, C, H, W]; both contiguous."""
    batch, channels, height, width = image.shape
    out_height, out_width = out.shape[2:]
    fill = 0.0 if isinstance(border, str) else float(border)
    return Launch(
        warping.warp,
        (_tiles(out_height * out_width, PIXELS), batch, _tiles(channels, WARP_CHANNELS)),
        (image, matrix, out, fill),
        _warp_constants(channels, height, width, out_height, out_width, border),
    )


def warp_adjoint_launch(grad: Tensor, matrix: Tensor, out: Tensor, border: str | float) -> Launch:
    """The image's gradient into out [B, C, H, W] from grad [B, C, Rh, Rw]; both contiguous."""
    batch, channels, height, width = out.shape
    return Launch(
        warping.warp_adjoint,
        (_tiles(height * width, PIXELS), batch, _tiles(channels, WARP_CHANNELS)),
        (grad, matrix, out),
        _warp_constants(channels, height, width, grad.shape[2], grad.shape[3], border),
    )


def _warp_constants(channels, height, width, out_height, out_width, border) -> dict[str, int | bool]:
    constants = {"CHANNELS": channels, "H": height, "W": width, "RH": out_height, "RW": out_width}
    blocks = {"WRAP": border == "wrap", "BLOCK": PIXELS, "BC": WARP_CHANNELS}
    return constants | blocks | {"num_warps": 4, "num_stages": 1}


def adam_launch(
    param: Tensor,
    grad: Tensor,
    exp_avg: Tensor,
    exp_avg_sq: Tensor,
    step: Tensor,
    lr: Tensor,
    betas: tuple[float, float],
    eps: float,
) -> Launch:
    """The update in place; all contiguous, `step` and a single `lr` on the device."""
    batch = param.shape[0]
    size = param.numel() // batch
    return Launch(
        adam.adam,
        (_tiles(size, ENTRIES), batch),
        (
            param,
            grad,
            exp_avg,
            exp_avg_sq,
            step,
            lr,
            1 if lr.numel() > 1 else 0,
            *_betas(betas),
            eps,
            size,
        ),
        {"BLOCK": ENTRIES, "num_warps": 4, "num_stages": 1},
    )
