"""horama 0.3.0, by `fourier`: `maco` would download its magnitudes.

Its own: a standardised spectrum, NAdam at 1.0, noise, and six random crops a step, each 0.25 to 0.3 of the canvas wide
and resized to the network's input. That input has the canvas's size here (by default it has 224 px under a canvas of
1,280), so that a step costs six passes at that size. Its values run over the network's whole range, so that the canvas
is pixels in 0..1. The objective is a function of images, in which a hook keeps the layer's output.
"""

from __future__ import annotations

from torch import Tensor, nn

from bench.peers.task import MEAN, STD, Clock, Task, kept_outputs


def render(net: nn.Module, task: Task, clock: Clock) -> Tensor:
    import horama  # pyright: ignore[reportMissingImports]

    (channel,) = task.channels  # it renders one image at a time
    kept = kept_outputs(net.get_submodule(task.module))

    def objective(images: Tensor) -> Tensor:
        clock.tick()
        kept.clear()
        net(images)
        return kept[0][:, channel].mean()

    image, _ = horama.fourier(
        objective,
        total_steps=task.steps,
        image_size=task.size,
        model_input_size=task.size,
        values_range=(-MEAN / STD, (1 - MEAN) / STD),
        device=task.device,
    )
    return image[None] * STD + MEAN
