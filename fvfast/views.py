"""Random views: the small jitters, zooms and tilts under which a feature must survive.

A feature that only fires for one exact arrangement of pixels is noise. So the network never sees the canvas itself,
but at each step another view of it. Views are drawn ahead for all steps from one generator on the CPU: the same
seed then means the same views on every device.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Generator, Tensor


@dataclass(frozen=True)
class Views:
    """The distribution that views are drawn from. The defaults draw the canvas itself.

    jitter: the shift, uniform in -jitter .. jitter canvas pixels, in each direction.
    zoom: (low, high): canvas pixels per view pixel, log-uniform; above 1 the view sees more than the canvas's
        share and wraps around; below 1 it is a close-up.
    stretch: how far the zooms of the two axes may differ, as a ratio, log-uniform in 1/stretch .. stretch.
    shear, rotate: degrees, uniform in -degrees .. degrees.
    choices: where set, rotations are drawn from this list instead.
    border: "wrap" (the canvas tiles), or the value in [0, 1] beyond its edge, or "mean" for the network's mean.
    pad: by how many canvas pixels a view of unit zoom reaches over each edge.
    """

    jitter: float = 0.0
    zoom: tuple[float, float] = (1.0, 1.0)
    stretch: float = 1.0
    shear: float = 0.0
    rotate: float = 0.0
    choices: tuple[float, ...] = ()
    border: float | str = "wrap"
    pad: float = 0.0

    @property
    def in_basis(self) -> bool:
        """Whether the views can be evaluated in the Fourier basis: everything but rotation and edges can."""
        return self.rotate == 0 and not self.choices and self.border == "wrap"

    @property
    def still(self) -> bool:
        """Whether every view is the canvas itself."""
        return self == Views()

    def draw(self, steps: int, generator: Generator, canvas: int, view: int) -> Tensor:
        """Draw `steps` views of a square canvas, `view` pixels wide.

        Returns [steps, 6] float32: ty, tx (canvas pixels), zy, zx (canvas pixels per view pixel), sigma (shear,
        pixels in x per pixel in y) and the angle (radians).
        """
        # One row a step, so that fewer steps mean the first of the same views: an interrupted render can be repeated.
        draws = torch.rand(steps, 6, generator=generator, dtype=torch.float64)

        def uniform(low: float, high: float, columns: slice) -> Tensor:
            return low + (high - low) * draws[:, columns]

        shift = uniform(-self.jitter, self.jitter, slice(0, 2))
        low, high = math.log(self.zoom[0]), math.log(self.zoom[1])
        stretch = uniform(-math.log(self.stretch), math.log(self.stretch), slice(2, 3)) / 2
        zoom = (uniform(low, high, slice(3, 4)) + torch.cat([stretch, -stretch], 1)).exp()  # [steps, 2]
        zoom = zoom * (canvas + 2 * self.pad) / view
        sigma = torch.tan(torch.deg2rad(uniform(-self.shear, self.shear, slice(4, 5))))
        if self.choices:
            index = (draws[:, 5:6] * len(self.choices)).long()
            degrees = torch.tensor(self.choices, dtype=torch.float64)[index]
        else:
            degrees = uniform(-self.rotate, self.rotate, slice(5, 6))
        return torch.cat([shift, zoom, sigma, torch.deg2rad(degrees)], 1).float()


def identity(count: int = 1) -> Tensor:
    """The view that is the canvas itself, [count, 6]."""
    return torch.tensor([[0.0, 0.0, 1.0, 1.0, 0.0, 0.0]]).repeat(count, 1)


def matrices(views: Tensor) -> Tensor:
    """The affine maps of views [B, 6], as `fvfast_kernels.warp` takes them: [B, 2, 3].

    From a view pixel (i, j), measured from the view's centre, to a canvas position (y, x), measured from the
    canvas's centre: zoom first, then rotate, then shear, then shift.
    """
    ty, tx, zy, zx, sigma, angle = views.unbind(1)
    cos, sin = angle.cos(), angle.sin()
    yy, yx = cos * zy, -sin * zx
    xy, xx = sin * zy, cos * zx
    rows_y = torch.stack([yy, yx, ty], 1)
    rows_x = torch.stack([xy + sigma * yy, xx + sigma * yx, tx + sigma * ty], 1)
    return torch.stack([rows_y, rows_x], 1)  # [B, 2, 3]
