"""The one judge of what every contender made: the unmodified network, in float32, at its own 224 px."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from bench.peers.task import NATIVE
from fvfast import models, targets
from fvfast.errors import FvfastError
from fvfast.expressions import Objective
from fvfast.layers import Tap
from fvfast.objectives import Channel
from fvfast.pristine import pristine
from fvfast.tracing import trace


class Judge:
    """Knows the bundled network: what a written target means, and what a canvas makes of it."""

    def __init__(self) -> None:
        self.model = models.load()
        self.module = pristine(self.model.module, torch.device("cpu"))
        self.layers = trace(self.module, NATIVE)

    def feature(self, target: str) -> tuple[str, int]:
        """The layer and the channel of a target such as `_blocks.10:3` or `logits:daisy`.

        Raises FvfastError for one that is malformed or unknown, or that is not one whole channel.
        """
        found: list[Objective] = targets.parse(target, self.layers, self.model)
        if len(found) != 1 or not isinstance(found[0], Channel):
            raise FvfastError(f"{target!r} is not one channel; write LAYER:CHANNEL or logits:NAME")
        return found[0].layer, found[0].channel

    def channels(self, target: str, count: int) -> tuple[int, ...]:
        """The target's channel and those that follow it, `count` in all. Raises FvfastError where there are too few."""
        layer, first = self.feature(target)
        total = self.layers[layer].channels
        if count > total:
            raise FvfastError(f"{layer} has {total} channels, too few for a batch of {count}")
        return tuple((first + i) % total for i in range(count))

    @torch.no_grad()
    def __call__(self, canvas: Tensor, layer: str, channels: tuple[int, ...]) -> list[float]:
        """Each image's own channel, its mean over positions. canvas: [B, 3, H, W] in 0..1, as it is: no view of it."""
        mean, std = (torch.tensor(v)[:, None, None] for v in (self.model.mean, self.model.std))
        if canvas.shape[-1] != NATIVE:
            canvas = F.interpolate(canvas, size=(NATIVE, NATIVE), mode="bilinear", antialias=True).clamp(0, 1)
        with Tap(self.module, self.layers, [layer]) as tap:
            activations = tap((canvas - mean) / std)[layer]  # [B, C, H, W]
        return [float(activations[i, channel].mean()) for i, channel in enumerate(channels)]
