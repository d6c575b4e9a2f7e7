"""Where a view's pixels lie on the canvas, which frequencies they can hold, and exact phases for both.

An angle is counted in turns, and its whole turns are dropped in integers before it becomes a float: a float32
product ky * y would have lost them.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

# Half a cycle a pixel, and a hair, so that rounding does not decide over the frequencies that lie on it.
NYQUIST = 0.5 + 2.0**-20


@dataclass(frozen=True)
class Geometry:
    """What fixes the shapes of a synthesis: canvas, view, and how much of the spectrum is in play."""

    height: int
    width: int
    out_height: int
    out_width: int
    band: int | None = None
    antialias: bool = True
    border: str = "wrap"

    @property
    def columns(self) -> int:
        """Number of column frequencies in play: kx = 0 .. columns-1."""
        full = self.width // 2 + 1
        return full if self.band is None else min(full, self.band + 1)

    @property
    def rows(self) -> int:
        """Number of folded row frequencies in play: |ky| = 0 .. rows-1."""
        full = self.height // 2 + 1
        return full if self.band is None else min(full, self.band + 1)

    @property
    def whole(self) -> bool:
        """Whether every frequency of the spectrum is in play."""
        return self.columns == self.width // 2 + 1 and self.rows == self.height // 2 + 1


@dataclass(frozen=True)
class Epilogue:
    """From the real field f to the view: (sigmoid(gain * colour @ f) - mean) / std."""

    colour: Tensor  # [3, 3]
    mean: Tensor  # [3]
    std: Tensor  # [3]
    gain: float


def frequencies(height: int, width: int, *, device: torch.device | str | None = None) -> tuple[Tensor, Tensor]:
    """Signed frequencies of a half-spectrum, in cycles a canvas: ky (H,) as in torch.fft, kx (W//2 + 1,).

    An even height puts its Nyquist row at ky = -H/2.
    """
    ky = torch.arange(height, device=device)
    return torch.where(ky < (height + 1) // 2, ky, ky - height), torch.arange(width // 2 + 1, device=device)


def split_product(scale: Tensor, distance: Tensor) -> tuple[Tensor, Tensor]:
    """scale * distance as (integer, fraction), without the rounding that a float32 product would suffer.

    `distance` holds multiples of 1/2 below 4096. The leading bits of `scale`, on a grid of 2^-10, give
    products that float32 holds exactly; what is left of it is below 2^-11, and so is the error that remains
    tiny.
    """
    leading = torch.round(scale * 1024) / 1024
    product = leading * distance
    whole = torch.floor(product)
    return whole, (product - whole) + (scale - leading) * distance


def turns(frequency: Tensor, position: tuple[Tensor, Tensor], period: int) -> Tensor:
    """frequency * position / period, modulo one turn, for integers and an (integer, fraction)."""
    whole, fraction = position
    cycles = torch.remainder(frequency * whole.to(torch.int64), period)
    return (cycles.to(fraction.dtype) + frequency.to(fraction.dtype) * fraction) / period


def cis(angle: Tensor) -> tuple[Tensor, Tensor]:
    """cos and sin of an angle in turns."""
    angle = (angle - torch.round(angle)) * (2 * math.pi)
    return torch.cos(angle), torch.sin(angle)


def view_centre(views: Tensor, height: int, width: int) -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]:
    """Canvas positions of the views' centres, as (integer, fraction).

    y0 = (H-1)/2 + ty and x0 = (W-1)/2 + tx + sigma ty.
    """
    ty, tx, sigma = views[:, 0], views[:, 1], views[:, 4]
    whole_y, whole_x = torch.floor(ty), torch.floor(tx)
    whole_s, fraction_s = split_product(sigma, whole_y)
    fraction_y = ty - whole_y
    fraction_x = (tx - whole_x) + (fraction_s + sigma * fraction_y)
    y0 = (whole_y + (height - 1) // 2, fraction_y + 0.5 * ((height - 1) % 2))
    x0 = (whole_x + whole_s + (width - 1) // 2, fraction_x + 0.5 * ((width - 1) % 2))
    return y0, x0


def half_offsets(size: int, like: Tensor) -> Tensor:
    """Distances of the upper half of `size` pixels from their centre: 1/2, 3/2, .. or 0, 1, .. if odd."""
    return torch.arange((size + 1) // 2, device=like.device, dtype=like.dtype) + 0.5 * (1 - size % 2)


def nyquist_mask(ky: Tensor, kx: Tensor, views: Tensor, geometry: Geometry) -> Tensor:
    """True where a frequency stays within the Nyquist frequency of the view's own pixels: [B, rows, K].

    A step of one view row moves zy along y and, sheared, sigma zy along x: its cycles a row are zy (ky/H +
    sigma kx/W).
    """
    zy, zx, sigma = (views[:, n, None, None] for n in (2, 3, 4))
    y = zy * (ky[:, None].to(zy) / geometry.height + sigma * (kx.to(zy) / geometry.width))
    x = zx * (kx.to(zy) / geometry.width)
    return (y.abs() <= NYQUIST) & (x.abs() <= NYQUIST)


def inside_mask(views: Tensor, geometry: Geometry) -> Tensor:
    """1 where a view's pixel lies on the canvas, half a pixel's rim included, else 0: [B, 1, Rh, Rw]."""
    ty, tx, zy, zx, sigma = (views[:, n, None, None] for n in range(5))
    i = torch.arange(geometry.out_height, device=views.device).to(views) - (geometry.out_height - 1) / 2
    j = torch.arange(geometry.out_width, device=views.device).to(views) - (geometry.out_width - 1) / 2
    y = zy * i[:, None] + ty  # [B, Rh, 1], from the canvas's centre
    x = zx * j + sigma * y + tx  # [B, Rh, Rw]
    inside = (y.abs() <= geometry.height / 2) & (x.abs() <= geometry.width / 2)
    return inside[:, None].to(views)
