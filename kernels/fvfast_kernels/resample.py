"""Affine resampling and the Adam update in plain PyTorch: what `warping.py` and `adam.py` compute."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional


def warp(image: Tensor, matrix: Tensor, out_size: tuple[int, int], border: str | float) -> Tensor:
    """Bilinear samples of the image [B, C, H, W] at matrix @ (i, j, 1), all positions from the centres."""
    height, width = image.shape[-2:]
    if not isinstance(border, str):
        return warp(image - border, matrix, out_size, "zeros") + border
    y, x = affine_points(matrix, out_size)
    y, x = y + (height - 1) / 2, x + (width - 1) / 2
    if border == "wrap":
        # A rim of the opposite side: every tap of a position in [0, H) x [0, W) is then in the image.
        y, x = torch.remainder(y, height) + 1, torch.remainder(x, width) + 1
        image = functional.pad(image, (1, 1, 1, 1), mode="circular")
        height, width = height + 2, width + 2
    grid = torch.stack(((2 * x + 1) / width - 1, (2 * y + 1) / height - 1), -1)
    return functional.grid_sample(image, grid, "bilinear", "zeros", align_corners=False)


def affine_points(matrix: Tensor, out_size: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """Positions (y, x) of the output's pixels, counted from the input's centre: [B, Rh, Rw] each."""
    i = torch.arange(out_size[0], device=matrix.device).to(matrix) - (out_size[0] - 1) / 2
    j = torch.arange(out_size[1], device=matrix.device).to(matrix) - (out_size[1] - 1) / 2
    entry = matrix[:, :, :, None, None]
    y = entry[:, 0, 0] * i[:, None] + (entry[:, 0, 1] * j + entry[:, 0, 2])
    x = entry[:, 1, 0] * i[:, None] + (entry[:, 1, 1] * j + entry[:, 1, 2])
    return y, x


def adam_(
    param: Tensor,
    grad: Tensor,
    exp_avg: Tensor,
    exp_avg_sq: Tensor,
    step: Tensor | int,
    lr: Tensor | float,
    betas: tuple[float, float],
    eps: float,
) -> None:
    """One update in place, as torch.optim.Adam computes it."""
    beta1, beta2 = betas
    exp_avg.lerp_(grad, 1 - beta1)
    exp_avg_sq.mul_(beta2).addcmul_(grad, grad, value=1 - beta2)
    denominator = (exp_avg_sq / one_minus_power(beta2, step)).sqrt_().add_(eps)
    if isinstance(lr, Tensor) and lr.dim() == 1:
        lr = lr.view(-1, *(1,) * (param.dim() - 1))
    param.sub_(exp_avg / denominator * (lr / one_minus_power(beta1, step)))


def one_minus_power(beta: float, step: Tensor | int) -> Tensor | float:
    """1 - beta^step; a float32 power of 0.999 would leave four digits of it."""
    if isinstance(step, Tensor):
        return -torch.expm1(step.to(torch.float32) * math.log(beta))
    return 1 - beta**step
