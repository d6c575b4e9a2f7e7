"""torch-dreams 4.0.0, by `Dreamer.render`.

Its own: `AutoImageParam`, rotation by 15 degrees and a resize by 0.5 to 1.2 on each axis (so the network sees views of
every size), AdamW at 9e-3, gradients clipped at 1, the whole network forward. The network's normalisation takes the
place of ImageNet's in the image parameter, where torch-dreams has it: before the transforms.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from bench.peers.task import Clock, Task, normalise

LR, SD = 9e-3, 0.01  # the defaults of `Dreamer.render`


def render(net: nn.Module, task: Task, clock: Clock) -> Tensor:
    from torch_dreams.auto_image_param import AutoImageParam  # pyright: ignore[reportMissingImports]
    from torch_dreams.batched_image_param import (  # pyright: ignore[reportMissingImports]
        BatchedImageParam,
        BatchedOptimizer,
    )
    from torch_dreams.batched_objective import BatchedObjective  # pyright: ignore[reportMissingImports]
    from torch_dreams.dreamer import Dreamer  # pyright: ignore[reportMissingImports]

    class Image(AutoImageParam):
        def normalize(self, x: Tensor, device: str) -> Tensor:
            return normalise(x)

    images = [Image(task.size, task.size, device=task.device, standard_deviation=SD) for _ in task.channels]
    parameter, objective = images[0], _channel(task.channels[0])
    if len(images) > 1:
        for image in images:
            image.get_optimizer(lr=LR, weight_decay=0.0)
        parameter = BatchedImageParam(images)
        parameter.optimizer = BatchedOptimizer([image.optimizer for image in images])
        objective = BatchedObjective([_channel(channel) for channel in task.channels])

    def timed(outputs: list[Tensor]) -> Tensor:
        clock.tick()
        return objective(outputs)

    dreamer = Dreamer(net, quiet=True, device=task.device)
    made = dreamer.render(
        layers=[net.get_submodule(task.module)], image_parameter=parameter, iters=task.steps, lr=LR, custom_func=timed
    )
    finished = [made] if len(images) == 1 else made.image_params
    return torch.cat([image.postprocess(device=task.device) for image in finished])


def _channel(channel: int) -> Callable[[list[Tensor]], Tensor]:
    return lambda outputs: -outputs[0][:, channel].mean()
