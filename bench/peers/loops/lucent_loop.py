"""torch-lucent 0.1.8, by `render.render_vis`.

Its own: `param.image` (Fourier, decorrelated), the standard transforms, Adam at 0.05, hooks on every module, the whole
network forward, and images below 224 px upsampled to 224 px behind the transforms. The network's normalisation takes
the place of ImageNet's. Its kornia is the one that it asks for, 0.4.1, which runs with torch 2.14.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from bench.peers.task import Clock, Task, normalise


def render(net: nn.Module, task: Task, clock: Clock) -> Tensor:
    from lucent.optvis import objectives, param, render, transform  # pyright: ignore[reportMissingImports]

    layer = task.module.replace(".", "_")
    parts = [objectives.channel(layer, channel, batch=i) for i, channel in enumerate(task.channels)]
    objective = objectives.Objective.sum(parts)

    def timed(hook: Any) -> Tensor:
        clock.tick()
        return objective(hook)

    images = render.render_vis(
        net,
        timed,
        lambda: param.image(task.size, batch=len(task.channels)),
        transforms=[*transform.standard_transforms, normalise],
        preprocess=False,
        thresholds=(task.steps,),
        progress=False,
        show_image=False,
    )
    return torch.from_numpy(images[0]).permute(0, 3, 1, 2)
