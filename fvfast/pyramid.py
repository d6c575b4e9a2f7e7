"""The image as a sum of grids, each half as fine as the one before and upsampled to the canvas.

After lucid's `lowres_tensor` and `laplacian_pyramid` (lucid/optvis/param): a coarse grid moves large patches at once,
so that gradient ascent finds large shapes as easily as fine ones, without a Fourier transform.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Generator, Tensor

from fvfast.images import Frame, Image, decorrelated, mixing
from fvfast.recipes import Recipe

COARSEST = 4  # pixels: no grid is smaller


def sides(size: int) -> list[int]:
    """The sides of the grids of a canvas, from its own downwards: [size, size // 2, size // 4, ...]."""
    found = [size]
    while found[-1] // 2 >= COARSEST:
        found.append(found[-1] // 2)
    return found


class Pyramid(Image):
    """The image as a sum of upsampled grids, through a sigmoid. parameter: all grids of an image in a row, [B, N].

    Grid k, of side size / 2^k, counts (2^k)^(decay - 1) times: with a decay of 1 every octave of frequencies moves
    alike, as in photographs; with a larger one coarse shapes come first.
    """

    def __init__(self, recipes: Sequence[Recipe], noise: Tensor, frame: Frame) -> None:
        self.frame, self.views, self.gain = frame, recipes[0].views, recipes[0].gain
        self.decorrelate = recipes[0].decorrelate
        self.colour = mixing(self.decorrelate, frame.inputs, frame.device)
        decay = torch.tensor([r.decay for r in recipes], device=frame.device)
        self.weights = [(2.0**level) ** (decay - 1) for level in range(len(sides(frame.size)))]  # [B] each
        sd = torch.tensor([r.sd for r in recipes])[:, None]
        self.parameter = (noise * sd).to(frame.device).requires_grad_()

    @staticmethod
    def noise(size: int, generator: Generator, channels: int = 3) -> Tensor:
        """One image's grids, standard normal, [N]."""
        return torch.randn(sum(channels * side * side for side in sides(size)), generator=generator)

    def begin(self, pictures: Tensor) -> None:
        """The pictures in the finest grid, and nothing in the others."""
        finest = decorrelated(pictures.to(self.frame.device), self.decorrelate, self.gain).flatten(1)
        with torch.no_grad():
            self.parameter.zero_()
            self.parameter[:, : finest.shape[1]] = finest

    def grids(self) -> list[Tensor]:
        """The grids as they are, from fine to coarse, [B, C, side, side] each."""
        every, channels = sides(self.frame.size), self.frame.inputs
        parts = self.parameter.split([channels * side * side for side in every], 1)
        return [part.view(-1, channels, side, side) for part, side in zip(parts, every, strict=True)]

    def canvas(self) -> Tensor:
        size = (self.frame.size, self.frame.size)
        total: Tensor | None = None
        # From coarse to fine, each sum upsampled on would be cheaper, and blur the coarse grids several times.
        for grid, weight in zip(self.grids(), self.weights, strict=True):
            fine = grid if grid.shape[-2:] == size else F.interpolate(grid, size, mode="bilinear", align_corners=False)
            term = fine * weight[:, None, None, None]
            total = term if total is None else total + term
        assert total is not None
        return torch.sigmoid(self.gain * torch.einsum("oc,bchw->bohw", self.colour, total))
