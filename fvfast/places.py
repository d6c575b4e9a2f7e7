"""Where an atlas is rendered: the interface of a place, and this machine. `fvfast.cluster` is the other one."""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch

from fvfast.job import Job
from fvfast.optimize import crew_size
from fvfast.plans import ImagePlan
from fvfast.producing import Chunk, Options, produce
from fvfast.rendering import pick_device
from fvfast.result import Progress
from fvfast.selection import stages

CHUNK_SECONDS = 15.0  # about as much work as is lost when a run is killed
LARGEST = 512  # images in a chunk


@dataclass(frozen=True)
class Work:
    """What is to be rendered: a job, the device that its images are rendered on (which a cluster may have and this
    machine not), the digest of its weights, how, and the images."""

    job: Job
    device: torch.device
    weights: str
    options: Options
    plan: Sequence[ImagePlan]


class Place(Protocol):
    """Something that renders. It is entered before anything is asked of it, and left at the end."""

    def __enter__(self) -> Place: ...

    def __exit__(self, *exc: object) -> None: ...

    def devices(self, device: str | torch.device | None) -> tuple[torch.device, torch.device]:
        """(where this process plans, where images are rendered), for the device that the user named, if any."""
        ...

    def chunks(
        self, work: Work, partly: Callable[[float], None], stop: Callable[[], bool], notify: Callable[[str], None]
    ) -> Generator[Chunk]:
        """Render all of `work.plan`, in chunks, until `stop()`.

        partly: told of how many features' worth of work is done beyond the chunks that were handed out.
        """
        ...


class Here:
    """This machine, in this process."""

    def __enter__(self) -> Here:
        return self

    def __exit__(self, *exc: object) -> None:
        pass

    def devices(self, device: str | torch.device | None) -> tuple[torch.device, torch.device]:
        found = pick_device(device)
        return found, found

    def chunks(
        self, work: Work, partly: Callable[[float], None], stop: Callable[[], bool], notify: Callable[[str], None]
    ) -> Generator[Chunk]:
        workers = crew_size(work.options.threads)[0] if work.device.type == "cpu" else 1
        pace = Pace(workers, work.options.batch or (1 if work.device.type == "cpu" else LARGEST // 2))
        try:
            yield from self._chunks(work, pace, partly, stop, notify)
        finally:
            work.job.recordings.close()

    def _chunks(
        self,
        work: Work,
        pace: Pace,
        partly: Callable[[float], None],
        stop: Callable[[], bool],
        notify: Callable[[str], None],
    ) -> Generator[Chunk]:
        for group in together(work):
            at = 0
            while at < len(group) and not stop():
                chunk = group[at : at + pace.count]
                at += len(chunk)

                def share(progress: Progress, count: int = len(chunk)) -> None:
                    partly(count * progress.steps_done / max(1, progress.steps_total))

                started = time.perf_counter()
                options = work.options
                yield produce(
                    work.job,
                    chunk,
                    work.weights,
                    options,
                    progress=share,
                    stop=stop,
                    notify=notify,
                    left=len(group) - at,
                )
                pace.learn(len(chunk), time.perf_counter() - started)


def together(work: Work) -> list[list[ImagePlan]]:
    """The images in groups that may share a batch without waste.

    On a GPU every image of a batch pays for the deepest layer in it: a group is what is truncated alike. On a CPU
    an image has a batch of its own, so all are one group, unless the user wants batches.
    """
    if work.device.type == "cpu" and (work.options.batch or 1) == 1:
        return [list(work.plan)] if work.plan else []
    stage = stages(work.job.module, work.job.layers)
    groups: dict[int, list[ImagePlan]] = {}
    for image in work.plan:
        deepest = max(stage[name] for name in image.objective.layers)
        groups.setdefault(deepest, []).append(image)
    return [groups[depth] for depth in sorted(groups)]


class Pace:
    """How many images a chunk should have to take about `CHUNK_SECONDS`: learnt from those before it."""

    def __init__(self, workers: int, batch: int) -> None:
        """workers: batches that run side by side; batch: images in each."""
        self.unit = workers * batch
        self.count = self.unit * (2 if self.unit < LARGEST // 4 else 1)

    def learn(self, images: int, seconds: float) -> None:
        """Take the speed of a chunk into account. At most four times as many as before: the first may be untypical."""
        fitting = int(CHUNK_SECONDS * images / max(seconds, 1e-3))
        most = max(self.unit, LARGEST // self.unit * self.unit)
        self.count = max(self.unit, min(fitting // self.unit * self.unit, 4 * self.count, most))
