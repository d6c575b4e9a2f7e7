"""The loop as a user of lucent runs it: eager, float32, weights that want gradients, one resampling after another.

Written from torch-lucent 0.1.8's published constants and its order of operations; nothing of its code is here.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fvfast.images import COLOUR, envelope
from fvfast.models import IMAGENET_MEAN, IMAGENET_STD


def lucent_style(module: nn.Module, layer: str, channel: int, batch: int, size: int) -> Callable[[], Tensor]:
    """A function that takes one step of Adam for `batch` images of `size` px and returns the mean objective.

    module: as it was loaded, on its device, in float32; every module gets a hook, as in lucent's `hook_model`.
    """
    device = next(module.parameters()).device
    kept: dict[str, Tensor] = {}
    for name, child in module.named_modules():
        child.register_forward_hook(lambda m, i, o, name=name: kept.__setitem__(name, o))
    spectrum = (torch.randn(batch, 3, size, size // 2 + 1, 2, device=device) * 0.01).requires_grad_()
    scale = envelope("lucid", size, size, 1.0).to(device)[None, None, ..., None]
    colour = COLOUR.to(device)
    mean, std = (torch.tensor(v, device=device)[:, None, None] for v in (IMAGENET_MEAN, IMAGENET_STD))
    optimizer = torch.optim.Adam([spectrum], lr=0.05)

    def view() -> Tensor:
        image = torch.fft.irfftn(torch.view_as_complex(scale * spectrum), s=(size, size), norm="ortho") / 4
        image = torch.sigmoid((image.permute(0, 2, 3, 1) @ colour.T).permute(0, 3, 1, 2))
        image = F.pad(image, [12] * 4, value=0.5)
        image = _moved(image, random.randrange(8), random.randrange(8), 0.0)
        factor = 1 + (random.randrange(11) - 5) / 50
        image = F.interpolate(image, scale_factor=factor, mode="bilinear", align_corners=True)
        image = _moved(image, 0, 0, math.radians(random.choice([*range(-10, 11), 0, 0, 0, 0, 0])))
        image = _moved(image, random.randrange(4), random.randrange(4), 0.0)
        image = torch.stack([(one - mean) / std for one in image])
        return F.interpolate(image, size=(size, size), mode="bilinear", align_corners=True)

    def step() -> Tensor:
        optimizer.zero_grad()
        module(view())
        loss = -kept[layer][:, channel].mean()
        loss.backward()
        optimizer.step()
        return -loss.detach()

    return step


def _moved(image: Tensor, dy: float, dx: float, angle: float) -> Tensor:
    """Shifted by pixels, or rotated by radians, bilinearly, zeros beyond the edge."""
    height, width = image.shape[2:]
    cos, sin = math.cos(angle), math.sin(angle)
    matrix = torch.tensor([[cos, -sin, -2 * dx / width], [sin, cos, -2 * dy / height]], device=image.device)
    grid = F.affine_grid(matrix.expand(len(image), 2, 3), list(image.shape), align_corners=False)
    return F.grid_sample(image, grid, align_corners=False)
