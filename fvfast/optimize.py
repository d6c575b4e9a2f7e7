"""The hot loop: gradient ascent on batches of images, and the workers that run batches side by side.

On a CPU a batch is one image, and several batches run at once, each on threads of its own. That is as fast as one
large batch (docs/performance.md), each forward pass ends at its own image's layer, and an image comes out the same
to the last bit whether it is rendered alone or in company. On a GPU a batch is as large as memory allows.
"""

from __future__ import annotations

import ctypes
import os
import sys
import threading
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
from fvfast_kernels import adam_
from torch import Tensor

from fvfast.errors import FvfastError, is_out_of_memory
from fvfast.expressions import Context, Objective
from fvfast.images import Image
from fvfast.objectives import together
from fvfast.prepare import Fast


@dataclass
class Batch:
    """Images that are optimised together.

    image: the parameterised images, B of them; objectives: (objective, number of images), in order.
    table: [steps, B, 6], the views of every step; lr: [B].
    rows: which images of the whole render these are. clip: largest gradient norm of an image, or None.
    history: [steps, B], the objective of each view; filled as the loop goes. done: steps taken. every: how often
    to keep a snapshot. error: why the batch could not go on, where the others can.
    """

    image: Image
    objectives: Sequence[tuple[Objective, int]]
    table: Tensor
    lr: Tensor
    rows: list[int]
    clip: float | None = None
    every: int | None = None
    history: Tensor = field(init=False)
    done: int = 0
    error: FvfastError | None = None
    snapshots: list[tuple[int, Tensor]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.history = torch.full(self.table.shape[:2], float("nan"))

    @property
    def steps(self) -> int:
        return len(self.table)


def ascend(batch: Batch, tap: Fast, stopped: Callable[[], bool]) -> None:
    """Take the batch's steps, or as many as there is time for until `stopped()`.

    Raises FvfastError where an objective is not a number, or does not depend on the image.
    """
    image, parameter = batch.image, batch.image.parameter
    objective = together(batch.objectives)
    names = sorted({name for part, _ in batch.objectives for name in part.layers})
    first, second = torch.zeros_like(parameter), torch.zeros_like(parameter)
    table, lr = batch.table.to(parameter.device), batch.lr.to(parameter.device)
    for step in range(batch.steps):
        if stopped():
            return
        activations = tap(image.view(table[step]), names) if names else {}
        value = objective(Context(activations, image.canvas, tap.layers))  # [B]
        gradient = _gradient(value, image.prior(), parameter, batch)
        if batch.clip is not None:
            norm = gradient.flatten(1).norm(dim=1)  # [B]
            scale = (batch.clip / (norm + 1e-6)).clamp(max=1)  # as torch.nn.utils.clip_grad_norm_
            gradient = gradient * scale.view(-1, *[1] * (gradient.dim() - 1))
        with torch.no_grad():
            adam_(parameter, gradient, first, second, step + 1, lr)
            image.settle()
        batch.history[step] = value.detach()
        batch.done = step + 1
        if batch.every and (step + 1) % batch.every == 0:
            with torch.no_grad():
                batch.snapshots.append((step + 1, image.canvas().cpu()))


def _gradient(value: Tensor, prior: Tensor | None, parameter: Tensor, batch: Batch) -> Tensor:
    finite = value.isfinite()
    if not finite.all():
        bad = [part.label for part, count in batch.objectives for _ in range(count)][int(finite.int().argmin())]
        raise FvfastError(
            f"the objective {bad} became {value[~finite][0].item()} at step {batch.done + 1}: try a smaller --lr, "
            "or --dtype float32"
        )
    if not value.requires_grad:
        labels = ", ".join(part.label for part, _ in batch.objectives)
        raise FvfastError(f"the objective {labels} does not depend on the image: there is nothing to optimise")
    loss = -value if prior is None else prior - value  # Adam minimises
    return torch.autograd.grad(loss.sum(), parameter)[0]


# Workers ---------------------------------------------------------------------------------------------------


class OutOfMemory(Exception):
    """A batch did not fit; `batch` says which."""

    def __init__(self, batch: Batch) -> None:
        super().__init__("out of memory")
        self.batch = batch


def run(
    batches: Sequence[Batch],
    tap: Fast,
    *,
    workers: int,
    threads: int,
    poll: Callable[[], bool],
    interval: float = 0.1,
) -> list[Batch]:
    """Ascend every batch, `workers` at a time, each with `threads` threads inside its operations.

    poll: called from this thread a few times a second; returning True asks all to stop after their step.
    Returns the batches that were begun, in order; those that met an FvfastError hold it. Raises any other error of
    a batch; OutOfMemory names its batch.
    """
    keep_large_blocks()
    queue = deque(batches)
    begun: list[Batch] = []
    failed: list[BaseException] = []
    stop, lock = threading.Event(), threading.Lock()

    def work() -> None:
        torch.set_num_threads(threads)
        while not stop.is_set():
            with lock:
                if not queue:
                    return
                batch = queue.popleft()
                begun.append(batch)
            try:
                ascend(batch, tap, stop.is_set)
            except FvfastError as error:
                batch.error = error
            except BaseException as error:  # handed to the caller's thread
                failed.append(OutOfMemory(batch) if is_out_of_memory(error) else error)
                stop.set()

    before = torch.get_num_threads()
    crew: list[threading.Thread] = []
    try:
        for _ in range(min(workers, len(batches))):
            member = threading.Thread(target=work, daemon=True)
            try:
                member.start()
            except RuntimeError as error:  # no memory for another thread's stack: those that run do all
                if not crew:
                    raise OutOfMemory(batches[0]) from error
                break
            crew.append(member)
        while any(member.is_alive() for member in crew):
            for member in crew:
                member.join(interval / len(crew))
            if poll():
                stop.set()
    finally:
        stop.set()
        for member in crew:
            member.join()
        torch.set_num_threads(before)
    if failed:
        raise failed[0]
    return sorted(begun, key=lambda batch: batch.rows)


def crew_size(threads: int | None) -> tuple[int, int]:
    """(workers, threads in each) for this machine's processors.

    One thread an image is the most efficient; machines with many cores give an image up to four, so that one image
    alone does not leave them idle. A fixed number a machine, since it enters into the last bits of a result.
    """
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    each = threads or max(1, min(4, cores // 4))
    return max(1, cores // each), each


def keep_large_blocks() -> None:
    """Have glibc keep freed activations instead of returning them to the system at every step.

    By default each large tensor is a fresh mapping whose pages fault one by one; measured on EfficientNet-Lite0 at
    224 px with batches of 8, that is 35 % of a step (docs/performance.md). Does nothing elsewhere than on glibc.
    """
    if not sys.platform.startswith("linux") or "MALLOC_MMAP_THRESHOLD_" in os.environ:
        return
    try:
        mallopt = ctypes.CDLL("libc.so.6").mallopt
    except (OSError, AttributeError):
        return
    # M_MMAP_THRESHOLD, M_TRIM_THRESHOLD, M_TOP_PAD: mallopt(3)
    for option, value in ((-3, 1 << 30), (-1, 1 << 30), (-2, 1 << 26)):
        mallopt(option, value)


def layers_of(objectives: Sequence[Objective]) -> list[str]:
    """Every layer that some objective reads, each once."""
    return list(dict.fromkeys(name for objective in objectives for name in sorted(objective.layers)))
