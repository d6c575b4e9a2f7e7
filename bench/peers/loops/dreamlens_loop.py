"""dreamlens 0.1.1, by `FeatureVisualizer.maximize` and `maximize_channels`.

Its own: `FourierCanvas`, rotation by 15 degrees and a zoom by 0.5 to 1.2, cropped or padded to the canvas's size, AdamW
at 9e-3, gradients clipped at 1, the whole network forward. The network's normalisation takes the place of ImageNet's.
"""

from __future__ import annotations

from torch import Tensor, nn

from bench.peers.task import Clock, Task, normalise


def render(net: nn.Module, task: Task, clock: Clock) -> Tensor:
    from dreamlens import FeatureTarget, FeatureVisualizer, RenderConfig  # pyright: ignore[reportMissingImports]

    def timed(image: Tensor) -> Tensor:
        clock.tick()
        return normalise(image)

    visualizer = FeatureVisualizer(net, quiet=True, device=task.device, preprocess=timed)
    config = RenderConfig(width=task.size, height=task.size, steps=task.steps)
    if len(task.channels) == 1:
        result = visualizer.maximize(FeatureTarget.for_channel(task.module, task.channels[0]), config)
    else:
        result = visualizer.maximize_channels(task.module, task.channels, config)
    return result.image.as_nchw()
