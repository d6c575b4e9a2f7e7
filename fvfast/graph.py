"""A step captured once as a CUDA graph and replayed: the host does nothing a step but say "again"."""

from __future__ import annotations

import functools
import time
from collections.abc import Callable
from typing import Protocol

import torch

from fvfast.errors import FvfastError, is_out_of_memory
from fvfast.step import Step

# Before a capture: loads every kernel (illegal inside one), lets cuDNN choose, and fills every cache.
WARM_UPS = 3


class Graph(Protocol):
    """What `record` needs of a device that can capture work and replay it."""

    def run(self, step: Callable[[], None], times: int) -> None: ...

    def capture(self, step: Callable[[], None]) -> None: ...

    def replay(self) -> None: ...

    def release(self) -> None: ...

    def wait(self) -> None: ...


class CudaGraph:
    """The CUDA side of `record`: a stream, on which a step is first run and then captured."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.stream = _stream(device)
        self.graph = torch.cuda.CUDAGraph()

    def run(self, step: Callable[[], None], times: int) -> None:
        """Run the step eagerly on the capture's stream, and wait."""
        self.stream.wait_stream(torch.cuda.current_stream(self.device))
        with torch.cuda.stream(self.stream):
            for _ in range(times):
                step()
        torch.cuda.current_stream(self.device).wait_stream(self.stream)
        self.wait()

    def capture(self, step: Callable[[], None]) -> None:
        with torch.cuda.graph(self.graph, stream=self.stream):
            step()

    def replay(self) -> None:
        self.graph.replay()

    def release(self) -> None:
        self.graph.reset()

    def wait(self) -> None:
        torch.cuda.synchronize(self.device)


@functools.cache
def _stream(device: torch.device) -> torch.cuda.Stream:
    """The stream of all captures on a device. cuBLAS keeps 32 MB for good for every stream that it has worked on."""
    return torch.cuda.Stream(device)


def record(
    step: Step, notify: Callable[[str], None], graphs: Callable[[torch.device], Graph] = CudaGraph
) -> tuple[Callable[[], None], Callable[[], None]]:
    """(advance, release): take one step by replaying a graph, and free what the graph holds.

    The step is warmed up, captured, and set back to its start. A network that cannot be captured (one that looks at
    values on the host, say) runs step by step instead, and `notify` is told. The batch's `seconds` say what warm-up
    and capture took. Raises what the step raises outside a capture, and errors of memory.
    """
    seconds = step.batch.seconds
    graph = graphs(step.parameter.device)
    started = time.perf_counter()
    warm_ups = min(WARM_UPS, step.batch.steps)
    if step.batch.redirect:  # which images are dead shows after one step
        graph.run(step, 1)
        step.wake()
        warm_ups -= 1
    graph.run(step, warm_ups)
    seconds["warm-up"] = time.perf_counter() - started
    # The table of views may be no longer than the warm-up: the captured step starts from its beginning.
    step.reset()
    started = time.perf_counter()
    advance, release = graph.replay, graph.release
    try:
        graph.capture(step)
    except RuntimeError as error:
        if is_out_of_memory(error) or isinstance(error, FvfastError):
            raise
        graph.wait()
        notify(f"this network cannot be captured as a CUDA graph ({_reason(error)}); running it step by step")
        advance, release = step, lambda: None
    step.reset()
    graph.wait()
    seconds["capture"] = time.perf_counter() - started
    return advance, release


def _reason(error: BaseException) -> str:
    """CUDA's reason for not capturing: what went wrong first, its first sentence. Ending a broken capture fails too."""
    while error.__context__ is not None:
        error = error.__context__
    return (str(error).strip() or type(error).__name__).splitlines()[0].partition(". ")[0].rstrip(".")
