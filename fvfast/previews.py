"""Images shown while they are being made."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from fvfast.step import Batch


@dataclass(frozen=True)
class Preview:
    """One image on its way: its row in the result, steps taken, [C, H, W] in 0..1 on the CPU, the objective of the
    view at each step so far [step]."""

    row: int
    step: int
    image: Tensor
    history: Tensor


class Watch:
    """Shows the images of one batch to `preview`, a few times a second at most."""

    def __init__(self, preview: Callable[[Preview], None], interval: float = 0.4) -> None:
        self.preview, self.interval = preview, interval
        self.next = 0.0

    def __call__(self, batch: Batch) -> None:
        if time.perf_counter() < self.next:
            return
        with torch.no_grad():
            canvas = batch.image.shown().cpu()
        for at, row in enumerate(batch.rows):
            self.preview(Preview(row, batch.done, canvas[at], batch.history[: batch.done, at]))
        self.next = time.perf_counter() + self.interval
