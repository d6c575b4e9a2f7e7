"""A step captured once as a CUDA graph and replayed: the host does nothing a step but say "again"."""

from __future__ import annotations

import contextlib
import functools
import time
from collections.abc import Callable, Iterator
from typing import Protocol

import torch

from fvfast.errors import FvfastError, is_out_of_memory
from fvfast.step import Batch, Step

# Before a capture: loads every kernel (illegal inside one), lets cuDNN choose, and fills every cache.
WARM_UPS = 3


class Graph(Protocol):
    """What `record` needs of a device that can capture work and replay it."""

    def run(self, step: Callable[[], None], times: int) -> None: ...

    def capture(self, step: Callable[[], None]) -> Callable[[], None]: ...

    def release(self) -> None: ...

    def wait(self) -> None: ...


class CudaGraph:
    """The CUDA side of `record`: a stream, on which steps are first run and then captured.

    What is captured one after the other is replayed one after the other, and shares its memory.
    """

    def __init__(self, device: torch.device, tuned: bool = False) -> None:
        """tuned: whether cuDNN measures its algorithms while steps are run, instead of guessing."""
        self.device, self.tuned = device, tuned
        self.stream = _stream(device)
        self.graphs: list[torch.cuda.CUDAGraph] = []

    def run(self, step: Callable[[], None], times: int) -> None:
        """Run the step eagerly on the capture's stream, and wait."""
        self.stream.wait_stream(torch.cuda.current_stream(self.device))
        with torch.cuda.stream(self.stream), choosing(self.tuned):
            for _ in range(times):
                step()
        torch.cuda.current_stream(self.device).wait_stream(self.stream)
        self.wait()

    def capture(self, step: Callable[[], None]) -> Callable[[], None]:
        """Capture the step; what comes back replays it."""
        graph = torch.cuda.CUDAGraph()
        pool = self.graphs[0].pool() if self.graphs else None
        with choosing(self.tuned), torch.cuda.graph(graph, pool=pool, stream=self.stream):
            step()
        self.graphs.append(graph)
        return graph.replay

    def release(self) -> None:
        for graph in self.graphs:
            graph.reset()
        self.graphs = []

    def wait(self) -> None:
        torch.cuda.synchronize(self.device)


@functools.cache
def _stream(device: torch.device) -> torch.cuda.Stream:
    """The stream of all captures on a device. cuBLAS keeps 32 MB for good for every stream that it has worked on."""
    return torch.cuda.Stream(device)


@contextlib.contextmanager
def choosing(tuned: bool) -> Iterator[None]:
    """While cuDNN chooses its algorithms: by measuring them if `tuned`; the caller's switches come back afterwards.

    cuDNN's plans are cached by thread, and the first that is found for a shape stays. So backward passes run in
    this thread too, not in autograd's own, where an earlier render's plans would be met.
    """
    before = torch.backends.cudnn.benchmark
    torch.backends.cudnn.benchmark = tuned or before
    try:
        with torch.autograd.set_multithreading_enabled(False):
            yield
    finally:
        torch.backends.cudnn.benchmark = before


class Recording:
    """A batch's steps as they run on a GPU: captured and replayed, for this batch and for those that are like it.

    The steps that redirect gradients (`fvfast.redirect`) are captured apart from those that do not. A network that
    cannot be captured (one that looks at values on the host, say) runs step by step instead, and `notify` is told.
    """

    def __init__(self, step: Step, notify: Callable[[str], None], graph: Graph) -> None:
        """Warm up, capture, and stand before the first step. Raises what the step raises outside a capture, and errors
        of memory.
        """
        self.step, self.notify, self.graph = step, notify, graph
        self._replays: dict[bool, Callable[[], None]] = {}  # by whether gradients are redirected
        self._redirected = self._taken = 0
        self._refused = False
        self._begin()

    def take_over(self, batch: Batch) -> bool:
        """Go on with another batch; False where it is not like this one."""
        if not self.step.take_over(batch):
            return False
        self._begin()
        return True

    def advance(self) -> None:
        """Take the batch's next step."""
        redirected = self._taken < self._redirected
        self.step.redirect(redirected)
        self._replays.get(redirected, self.step)()
        self._taken += 1

    def release(self) -> None:
        """Free what was captured."""
        if self._replays:
            self.graph.release()
        self._replays = {}

    def _begin(self) -> None:
        """Have captured what the batch's steps will ask for; its `seconds` say what warm-up and capture took."""
        batch, step = self.step.batch, self.step
        batch.seconds |= {"warm-up": 0.0, "capture": 0.0}
        self._redirected = self._taken = 0
        if batch.redirect:  # which images are dead shows after one step
            with self._timed("warm-up"):
                if False in self._replays:
                    self._replays[False]()
                else:
                    self.graph.run(step, 1)
                if step.wake():
                    self._redirected = min(batch.redirect, batch.steps)
            step.reset()
        if self._redirected:
            self._capture(True)
        if self._redirected < batch.steps:
            self._capture(False)
        self.graph.wait()

    def _capture(self, redirected: bool) -> None:
        if redirected in self._replays or self._refused:
            return
        step = self.step
        step.redirect(redirected)
        with self._timed("warm-up"):
            self.graph.run(step, min(WARM_UPS, step.batch.steps))
        # The table of views may be no longer than the warm-up: the captured step starts from its beginning.
        step.reset()
        with self._timed("capture"):
            try:
                self._replays[redirected] = self.graph.capture(step)
            except RuntimeError as error:
                if is_out_of_memory(error) or isinstance(error, FvfastError):
                    raise
                self.graph.wait()
                self._refused = True
                reason = _reason(error)
                self.notify(f"this network cannot be captured as a CUDA graph ({reason}); running it step by step")
        step.reset()

    @contextlib.contextmanager
    def _timed(self, stage: str) -> Iterator[None]:
        started = time.perf_counter()
        yield
        self.step.batch.seconds[stage] += time.perf_counter() - started


def record(
    step: Step, notify: Callable[[str], None], graphs: Callable[[torch.device, bool], Graph] = CudaGraph
) -> Recording:
    """A step warmed up and captured, standing at its start."""
    tuned = step.fast.form_for(step.names, len(step.batch.rows)).tuned
    return Recording(step, notify, graphs(step.parameter.device, tuned))


def _reason(error: BaseException) -> str:
    """CUDA's reason for not capturing: what went wrong first, its first sentence. Ending a broken capture fails too."""
    while error.__context__ is not None:
        error = error.__context__
    return (str(error).strip() or type(error).__name__).splitlines()[0].partition(". ")[0].rstrip(".")
