"""Guided dreams: the photograph is changed towards what the network sees in another picture."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

from fvfast.errors import FvfastError
from fvfast.expressions import Context, Objective, OnLayer
from fvfast.job import Job
from fvfast.layers import Tap
from fvfast.objectives import WholeLayer

# The longer side at which a guide is looked at, and how many of its positions are kept: the match compares every
# position of a tile with every one of these.
GUIDE_SIZE = 384
GUIDE_POSITIONS = 1024


@dataclass(frozen=True, eq=False)
class Guided(OnLayer):
    """Mean over positions of dot(activation, the guide's activation that matches it best).

    After the guided dreams of Google's DeepDream notebook (2015). guide: [N, C], one row a position of the guide.
    """

    layer: str
    guide: Tensor = field(repr=False)

    def value(self, context: Context) -> Tensor:
        maps = context[self.layer].flatten(2)  # [B, C, P]
        guide = self.guide.to(maps)  # [N, C]
        # Which matches best is looked up and held fixed; the largest of all products is the product with it.
        return torch.matmul(guide, maps).amax(1).mean(1)  # [B, N, P] to [B]

    @property
    def label(self) -> str:
        return f"{self.layer}, guided"


def guided(job: Job, objectives: list[Objective], picture: Tensor) -> list[Objective]:
    """The same layers, guided by a picture [3, H, W] in 0..1. Raises FvfastError for anything but whole layers."""
    for objective in objectives:
        if not isinstance(objective, WholeLayer):
            raise FvfastError(f"a guide needs whole layers as targets, not {objective.label!r}: leave out the channel")
    names = [objective.layer for objective in objectives if isinstance(objective, WholeLayer)]
    scale = min(1.0, GUIDE_SIZE / max(picture.shape[-2:]))
    size = tuple(max(32, round(side * scale)) for side in picture.shape[-2:])
    small = torch.nn.functional.interpolate(picture[None], size=size, mode="bilinear", antialias=True)
    mean, std = (torch.tensor(v)[:, None, None] for v in (job.model.mean, job.model.std))
    with Tap(job.module, job.layers, names) as tap, torch.no_grad():
        activations = tap(((small - mean) / std).to(job.device))
    return [Guided(name, _spread(activations[name][0].flatten(1).T)) for name in names]


def _spread(rows: Tensor) -> Tensor:
    """At most GUIDE_POSITIONS rows, evenly spread."""
    stride = -(-len(rows) // GUIDE_POSITIONS)
    return rows[::stride].contiguous()
