"""The hot loop: gradient ascent on batches of images, and the workers that run batches side by side.

On a CPU a batch is one image, and several batches run at once, each on threads of its own. That is faster than one
large batch (docs/performance.md), each forward pass ends at its own image's layer, and an image comes out the same to
the last bit whether it is rendered alone or in company. On a GPU a batch is as large as memory allows.
"""

from __future__ import annotations

import contextvars
import ctypes
import os
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence

import torch

from fvfast.errors import FvfastError, is_out_of_memory
from fvfast.expressions import Objective
from fvfast.prepare import Fast
from fvfast.recordings import Recorder, Recordings
from fvfast.step import Batch, Step

STRIDE = 16


def stride_on(device: torch.device) -> int:
    """How many steps a device is given at once, before the host waits for it and looks at what came of them."""
    return STRIDE if device.type == "cuda" else 1


def ascend(
    batch: Batch,
    tap: Fast,
    stopped: Callable[[], bool],
    notify: Callable[[str], None] = lambda _: None,
    recorder: Recorder | None = None,
    recordings: Recordings | None = None,
) -> None:
    """Take the batch's steps, or as many as there is time for until `stopped()`.

    recorder: turns a step into something faster that does the same, such as `graph.record`, which is the default on
    a GPU. recordings: where what it made is kept for the next batch; without them, it is freed in the end.
    Raises FvfastError where an objective is not a number, or does not depend on the image.
    """
    if batch.image.parameter.is_cuda:
        from fvfast import graph

        recorder = recorder or graph.record
    if recorder is None or tap.habits.remembers:  # what is captured would remember one thing for ever
        _take(batch, Step(batch, tap.private(batch.seed)), stopped)
        return
    kept = recordings or Recordings()
    try:
        recording = kept.recording(batch, tap, notify, recorder)
        _take(batch, recording.step, stopped, recording.advance)
    finally:
        if recordings:
            kept.part(batch)
        else:
            kept.close()


def _take(batch: Batch, step: Step, stopped: Callable[[], bool], advance: Callable[[], None] | None = None) -> None:
    """The loop. advance: takes a step that was recorded; None for `step` itself."""
    stride = stride_on(batch.image.parameter.device)
    go = advance or step
    started = time.perf_counter()
    try:
        batch.keep()
        while not batch.finished and not stopped():
            until = batch.until(min(batch.done + stride, batch.steps))
            for _ in range(until - batch.done):
                go()
            if advance is None and batch.done == 0 and step.wake():
                step.reset()
                for _ in range(until):
                    go()
            step.publish(until)
            if batch.watch:
                batch.watch(batch)
            batch.keep()
    finally:
        batch.seconds["loop"] = time.perf_counter() - started


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
    notify: Callable[[str], None] = lambda _: None,
    interval: float = 0.1,
    recordings: Recordings | None = None,
) -> list[Batch]:
    """Ascend every batch, `workers` at a time, each with `threads` threads inside its operations.

    poll: called from this thread a few times a second; returning True asks all to stop after their step.
    recordings: what batches one after the other take over from each other; for one worker only.
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
                ascend(batch, tap, stop.is_set, notify, recordings=recordings)
            except FvfastError as error:
                batch.error = error
            except BaseException as error:  # handed to the caller's thread
                failed.append(OutOfMemory(batch) if is_out_of_memory(error) else error)
                stop.set()

    before = torch.get_num_threads()
    crew: list[threading.Thread] = []
    try:
        for _ in range(min(workers, len(batches))):
            # What the caller has set in its context holds for its workers too.
            member = threading.Thread(target=contextvars.copy_context().run, args=(work,), daemon=True)
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
    224 px with batches of 8, that is more than half of a step (docs/performance.md). Does nothing but on glibc.
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


def give_back_blocks() -> None:
    """Return freed memory to the system after work that is done once: other threads do not see what this one keeps.

    Does nothing but on glibc.
    """
    if sys.platform.startswith("linux"):
        try:
            ctypes.CDLL("libc.so.6").malloc_trim(0)
        except (OSError, AttributeError):
            return


def layers_of(objectives: Sequence[Objective]) -> list[str]:
    """Every layer that some objective reads, each once."""
    return list(dict.fromkeys(name for objective in objectives for name in sorted(objective.layers)))
