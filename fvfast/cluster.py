"""A Ray cluster as the place where an atlas is rendered: each task is one chunk, and only the driver writes."""

from __future__ import annotations

import logging
import os
import socket
from collections.abc import Callable, Generator
from dataclasses import dataclass, replace
from typing import Any

import torch

from fvfast.errors import FvfastError
from fvfast.identity import canonical, feeding
from fvfast.job import Job
from fvfast.models import Model
from fvfast.optimize import crew_size
from fvfast.places import Work, together
from fvfast.plans import ImagePlan
from fvfast.producing import Chunk, Options, produce

# Images in a task where no batch is set: few enough that a lost task costs little, enough to be worth its start.
ON_CPU, ON_GPU = 4, 64
AHEAD = 2  # tasks handed out for each that can run: a worker never waits for the driver


@dataclass(frozen=True)
class Setting:
    """What a worker's job depends on: the model, by its weights' digest, name and normalisation, and where it runs."""

    weights: str
    model: str
    normalisation: tuple[tuple[float, ...], tuple[float, ...]]
    device: str
    dtype: torch.dtype
    size: int
    view: int
    fed: str  # what else the model is fed with


# One model and one job a worker process, kept from task to task.
_jobs: dict[Setting, Job] = {}


class Cluster:
    """A Ray cluster, for the time of one atlas."""

    def __init__(self, address: str | None = None) -> None:
        """address: as `ray.init` takes it; None for RAY_ADDRESS, else a cluster that runs on this machine, else a
        new one. A connection that the caller has opened is used as it is, and left open."""
        self.address = address
        self.opened = False

    def __enter__(self) -> Cluster:
        """Raises FvfastError where Ray is missing or there is no cluster at the address."""
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        try:
            import ray
        except ImportError as error:
            raise FvfastError("--engine ray needs Ray: pip install 'fvfast[ray]'") from error
        self.ray: Any = ray
        if not ray.is_initialized():
            _reach(self.address or os.environ.get("RAY_ADDRESS", ""))
            try:
                ray.init(self.address, log_to_driver=False, logging_level=logging.ERROR, configure_logging=True)
            except Exception as error:  # each way to be unreachable has an exception of its own
                detail = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
                raise FvfastError(
                    f"no Ray cluster could be used ({detail.rstrip('.')}): see docs/atlas.md, or leave out --engine ray"
                ) from error
            self.opened = True
        return self

    def __exit__(self, *exc: object) -> None:
        if self.opened:
            self.ray.shutdown()

    def devices(self, device: str | torch.device | None) -> tuple[torch.device, torch.device]:
        try:
            named = None if device is None else torch.device(device)
        except (RuntimeError, TypeError) as error:
            raise FvfastError(f"device {device!r} is unknown; with --engine ray there are cpu and cuda") from error
        gpus = self.ray.cluster_resources().get("GPU", 0)
        if named is None:
            named = torch.device("cuda" if gpus else "cpu")
        if named.type == "cuda" and not gpus:
            raise FvfastError("this Ray cluster has no GPU: leave out --device, or use --device cpu")
        return torch.device("cpu"), torch.device(named.type)  # which GPU of a machine is Ray's to say

    def chunks(
        self, work: Work, partly: Callable[[float], None], stop: Callable[[], bool], notify: Callable[[str], None]
    ) -> Generator[Chunk]:
        ray = self.ray
        on_gpu = work.device.type == "cuda"
        threads = crew_size(work.options.threads)[1]  # as many for an image as on this machine: the same last bits
        # A lost worker's task is done again, however often that happens: nothing of it was written.
        remote = ray.remote(num_cpus=1 if on_gpu else threads, num_gpus=1 if on_gpu else 0, max_retries=-1)(_task)
        options = replace(work.options, threads=threads, workers=None if on_gpu else 1)
        # The model goes through Ray's own memory: a node needs neither its weights nor a disk in common.
        model = ray.put(work.job.model)
        job, known = work.job, work.job.model
        setting = Setting(
            work.weights,
            known.name,
            (known.mean, known.std),
            str(work.device),
            job.dtype,
            job.size,
            job.view,
            canonical(feeding(known)),
        )
        tasks = iter(_tasks(work, work.options.batch or (ON_GPU if on_gpu else ON_CPU)))
        running: list[Any] = []
        try:
            while not stop():
                while len(running) < AHEAD * self._slots(on_gpu, threads) and (plan := next(tasks, None)):
                    running.append(remote.remote([model], setting, plan, options))
                if not running:
                    return
                ready, running = ray.wait(running, timeout=0.2)
                partly(0.0)
                for reference in ready:
                    yield self._result(reference)
        finally:
            for reference in running:
                ray.cancel(reference, force=True)

    def _result(self, reference: Any) -> Chunk:
        """What a task came to; what stopped it, as a sentence where the user can mend it."""
        errors = self.ray.exceptions
        try:
            return self.ray.get(reference)
        except errors.RayTaskError as error:
            cause = error.cause
            if isinstance(cause, FvfastError):
                raise cause from None
            raise
        except errors.RayError as error:
            raise FvfastError(
                f"the Ray cluster gave up on a task ({type(error).__name__}): what is finished is kept; run the same "
                "command again"
            ) from error

    def _slots(self, on_gpu: bool, threads: int) -> int:
        """How many tasks can run at once; asked again and again, since nodes come and go."""
        resources = self.ray.cluster_resources()
        return max(1, int(resources.get("GPU", 0)) if on_gpu else int(resources.get("CPU", 1)) // threads)


def _tasks(work: Work, count: int) -> Generator[list[ImagePlan]]:
    for group in together(work):
        for at in range(0, len(group), count):
            yield group[at : at + count]


def _task(models: list[Any], setting: Setting, plan: list[ImagePlan], options: Options) -> Chunk:
    """Runs on a worker: renders one chunk, with the model and the job that an earlier task may have left."""
    if setting not in _jobs:
        model = _fetch(models[0])
        _jobs.clear()
        _jobs[setting] = Job(model, torch.device(setting.device), setting.dtype, setting.size, setting.view)
    return produce(_jobs[setting], plan, setting.weights, options)


def _fetch(reference: Any) -> Model:
    import ray
    from ray import exceptions

    try:
        return ray.get(reference)
    except exceptions.RaySystemError as error:  # how Ray wraps what goes wrong while it unpacks
        reason = next((line for line in str(error).splitlines() if line), "").removeprefix("System error: ")
        raise FvfastError(
            f"a Ray worker cannot load the model ({reason}): install what it needs on every node, or start them with "
            "a PYTHONPATH that has it"
        ) from None


def _reach(address: str) -> None:
    """Raise FvfastError where nobody listens at HOST:PORT: Ray itself would try for minutes."""
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if not host or not port.isdecimal():
        return  # "auto", "local", and whatever else only Ray knows
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=10).close()
    except (OSError, OverflowError) as error:
        raise FvfastError(
            f"no Ray cluster answers at {address} ({error}): see docs/atlas.md for how to start one"
        ) from error
