"""The cases that are checked: shapes, modes, and random inputs for them."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch

BETAS, EPS, GAIN = (0.9, 0.999), 1e-8, 0.25
COLOUR = np.array([[0.56, 0.19, 0.04], [0.58, 0.0, -0.09], [0.58, -0.18, 0.05]], np.float32) * 1.4
MEAN, STD = np.array([0.485, 0.456, 0.406], np.float32), np.array([0.229, 0.224, 0.225], np.float32)


@dataclass(frozen=True)
class Case:
    """One synthesis and its way back. `table`: views from a table by a step; `adam`: the update in the epilogue."""

    height: int
    width: int
    out: tuple[int, int]
    precision: str = "fast"
    layout: str = "nhwc4"
    shear: bool = True
    table: bool = True
    adam: bool = True
    antialias: bool = True
    band: int | None = None
    border: str = "wrap"
    phase: bool = False
    per_image: bool = False  # an envelope, and a magnitude, of each image
    batch: int = 2
    half_view: bool | None = None  # None: with the layout nhwc4
    seed: int = 0

    @property
    def columns(self) -> int:
        """Columns of the half-spectrum, M."""
        return self.width // 2 + 1

    @property
    def view_dtype(self) -> torch.dtype:
        half = self.layout == "nhwc4" if self.half_view is None else self.half_view
        return torch.float16 if half else torch.float32

    def __str__(self) -> str:
        flags = [name for name in ("shear", "table", "adam", "phase", "per_image") if getattr(self, name)]
        flags += ["no-antialias"] if not self.antialias else []
        flags += [f"band{self.band}"] if self.band is not None else []
        flags += ["mask"] if self.border == "mask" else []
        size = f"{self.height}x{self.width}->{self.out[0]}x{self.out[1]}"
        return f"{size} {self.precision} {self.layout} {'+'.join(flags)}"


@dataclass
class Inputs:
    """Tensors of a case: 1/f spectra whose field has a standard deviation of about 3, and random views."""

    spectrum: torch.Tensor
    envelope: torch.Tensor
    table: torch.Tensor  # the views, or a table whose other steps are NaN
    views: torch.Tensor
    step: torch.Tensor | None
    magnitude: torch.Tensor | None
    random: np.random.Generator  # for what else a case needs

    @classmethod
    def of(cls, case: Case) -> Inputs:
        r = np.random.default_rng(case.seed + 7919 * case.height + case.width)
        h, w, m, b = case.height, case.width, case.columns, case.batch
        ky = np.minimum(np.arange(h), h - np.arange(h)) / h
        envelope = 1 / np.maximum(np.hypot(ky[:, None], np.arange(m) / w), 1 / max(h, w))
        spectrum, magnitude = r.standard_normal((b, 3, 2, h, m)), None
        power = ((np.where(np.arange(m) > 0, 2.0, 1.0) * envelope) ** 2).sum() / (h * w)
        envelope = envelope * (3 / math.sqrt(power))
        if case.per_image:
            envelope = np.stack([envelope * (1 + 0.3 * n) for n in range(b)])
        if case.phase:
            magnitude = np.abs(r.standard_normal((b, 3, h, m) if case.per_image else (3, h, m)))
            spectrum = r.uniform(-7, 7, (b, 3, h, m))
        views = r.uniform((-200, -200, 0.8, 0.8, -0.2), (200, 200, 1.4, 1.4, 0.2), (b, 5))
        if not case.shear:
            views[:, 4] = 0
        if case.border == "mask":
            views[:, :2] = r.uniform(-5, 5, (b, 2))
        table = own = _float32(views)
        if case.table:
            table = torch.full((3, b, 5), math.nan)
            table[1] = own
        step = torch.tensor([1], dtype=torch.int32) if case.table else None
        planes = None if magnitude is None else _float32(magnitude)
        return cls(_float32(spectrum), _float32(envelope), table, own, step, planes, r)


def _float32(a: np.ndarray) -> torch.Tensor:
    return torch.tensor(a.astype(np.float32))


@dataclass(frozen=True)
class WarpCase:
    """One affine gather and its adjoint, two images."""

    size: tuple[int, int]
    out: tuple[int, int]
    channels: int
    border: str | float
    dtype: torch.dtype = torch.float32

    def __str__(self) -> str:
        size = f"{self.size[0]}x{self.size[1]}->{self.out[0]}x{self.out[1]}"
        return f"warp {size} {self.channels} channels {self.border} {str(self.dtype).removeprefix('torch.')}"


def small_cases() -> list[Case]:
    """Small sizes in every layout and mode, those included that the hot loop does not always use."""
    out = []
    for n, (h, w, size) in enumerate(
        [(33, 40, (33, 40)), (48, 48, (48, 48)), (64, 64, (64, 64)), (96, 80, (56, 49))],
    ):
        for precision in ("fast", "exact"):
            for layout in ("nchw", "nhwc4"):
                shear = n == 3 or (n + (layout == "nchw") + (precision == "exact")) % 2 == 0
                graph = n % 2 == 0 or layout == "nhwc4"
                out.append(Case(h, w, size, precision, layout, shear=shear, table=graph, adam=graph, seed=n))
    for precision in ("fast", "exact"):
        plain = {"shear": False, "table": False, "adam": False, "per_image": True}
        out += [
            Case(48, 40, (41, 56), precision, "nhwc4", band=11, border="mask", seed=21),
            Case(33, 48, (40, 33), precision, "nchw", phase=True, per_image=True, antialias=False, seed=22),
            Case(40, 33, (64, 17), precision, "nhwc", border="mask", half_view=True, seed=23, **plain),
            Case(96, 96, (96, 96), precision, "nhwc4", batch=1, seed=24),
        ]
    return out


def small_warps() -> list[WarpCase]:
    return [
        WarpCase((33, 40), (33, 40), 3, "wrap"),
        WarpCase((48, 48), (40, 57), 6, "zeros"),
        WarpCase((40, 33), (21, 30), 3, 0.5),
        WarpCase((48, 40), (48, 40), 3, "wrap", torch.float16),
        WarpCase((48, 40), (48, 40), 5, "zeros", torch.bfloat16),
    ]
