"""The two loops behind `render_vis`: the engine's, and a general one for whatever the engine does not know."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.optim import Adam, Optimizer

from fvfast.compat.lucent import fusing
from fvfast.compat.lucent.fusing import Chain
from fvfast.compat.lucent.network import Eager, Foreign, Loss, Network
from fvfast.compat.lucent.optvis.param.color import Rgb
from fvfast.compat.lucent.optvis.param.spatial import Pixels, Spectrum
from fvfast.errors import FvfastError
from fvfast.images import Fourier, Frame
from fvfast.optimize import keep_large_blocks, stride_on
from fvfast.step import Batch, Step

# What torch's Adam does unless told otherwise, and what the engine's does.
PLAIN_ADAM: dict[str, Any] = {
    "betas": (0.9, 0.999),
    "eps": 1e-8,
    "weight_decay": 0,
    "amsgrad": False,
    "maximize": False,
}


class SlowPath(UserWarning):
    """Says that a render goes step by step through Python, and what keeps it off the engine."""


def _warn(sentence: str) -> None:
    warnings.warn(sentence, SlowPath, stacklevel=2)


class Loop(Protocol):
    """A way to optimise. stride: after how many steps it may be looked at."""

    stride: int

    def advance(self, count: int) -> None:
        """Take `count` more steps."""

    def publish(self) -> float:
        """Bring the user's parameters up to date; gives the last loss, NaN before the first step."""
        ...

    def close(self) -> None:
        """Free what it holds."""


def why_slow(params: Sequence[Tensor], image_f: Any, optimizer: Optimizer, chain: Chain | str) -> str | None:
    """What keeps a render off the engine, or None."""
    if isinstance(chain, str):
        return chain
    group = optimizer.param_groups[0]
    plain = type(optimizer) is Adam and len(optimizer.param_groups) == 1 and not optimizer.state
    if not plain or any(group[key] != value for key, value in PLAIN_ADAM.items()):
        return f"the optimizer {type(optimizer).__name__} is not a plain Adam"
    if len(group["params"]) != len(params):
        return "the optimizer moves some of the parameters only"
    return fusing.why_not(params, image_f)


class Engine:
    """fvfast's step, on a copy of the image's parameter: one warp, the network made fast, Adam; a graph on GPUs."""

    def __init__(self, network: Network, loss: Loss, image_f: Rgb, chain: Chain, lr: float, steps: int) -> None:
        assert isinstance(image_f.source, (Spectrum, Pixels))
        self.source = image_f.source
        names, reads_canvas = network.read
        device, batch = network.device, len(self.source.tensor)
        self.fast = network.fast(names, wide=device.type == "cuda" and network.dtype != torch.float32)
        mean, std = (torch.tensor(values, device=device) for values in (chain.mean, chain.std))
        frame = Frame(chain.size, chain.side, mean, std, network.dtype, device, self.fast.channels)
        warped = reads_canvas or not chain.still
        self.image = fusing.engine_image(image_f, chain, frame, warped)
        self.batch = Batch(
            image=self.image,
            objectives=[(Foreign(loss, network, names), batch)],
            table=chain.table(steps, batch),
            lr=torch.full((batch,), lr),
            rows=list(range(batch)),
        )
        keep_large_blocks()
        self.stride, self.done = stride_on(device), 0
        self.step = Step(self.batch, self.fast)
        self._next: Callable[[], None] = self.step
        self._release: Callable[[], None] = lambda: None
        if device.type == "cuda":
            from fvfast import graph

            recording = graph.record(self.step, _warn)
            self._next, self._release = recording.advance, recording.release

    @property
    def in_basis(self) -> bool:
        """Whether views are evaluated in the Fourier basis, without any warp."""
        return type(self.image) is Fourier

    def advance(self, count: int) -> None:
        for _ in range(count):
            self._next()
        self.done += count
        self.step.publish(self.done)

    def publish(self) -> float:
        fusing.give_back(self.image, self.source)
        return -float(self.batch.history[self.done - 1].sum()) if self.done else float("nan")

    def close(self) -> None:
        self._release()
        self.fast.__exit__()


class General:
    """lucent's own loop, on the network made fast: any image, any transforms, any optimiser of torch."""

    stride = 1

    def __init__(
        self,
        network: Network,
        loss: Loss,
        image_f: Callable[[], Tensor],
        transform_f: Callable[[Tensor], Tensor],
        optimizer: Optimizer,
    ) -> None:
        self.loss, self.image_f, self.transform_f, self.optimizer = loss, image_f, transform_f, optimizer
        self.eager = Eager(network, network.read[0])
        self.last = float("nan")

    def advance(self, count: int) -> None:
        for _ in range(count):  # torch's own closures give tensors, whatever it says
            self.optimizer.step(self._closure)  # pyright: ignore[reportCallIssue, reportArgumentType]

    def _closure(self) -> Tensor:
        self.optimizer.zero_grad()
        canvas = self.image_f()
        loss = self.eager.loss(self.loss, self.transform_f(canvas), canvas)
        if not loss.requires_grad:
            raise FvfastError("the objective does not depend on the image: there is nothing to optimise")
        if not loss.isfinite():
            raise FvfastError(f"the objective became {loss.item()}: try a smaller learning rate")
        loss.backward()
        self.last = loss.item()
        return loss

    def publish(self) -> float:
        return self.last

    def close(self) -> None:
        self.eager.close()
