"""A step captured once as a CUDA graph and replayed: the host does nothing a step but say "again"."""

from __future__ import annotations

import time
from collections.abc import Callable

import torch

from fvfast.errors import FvfastError, is_out_of_memory
from fvfast.step import Step

# Before a capture: loads every kernel (illegal inside one), lets cuDNN choose, and fills every cache.
WARM_UPS = 3


def record(step: Step, notify: Callable[[str], None]) -> tuple[Callable[[], None], Callable[[], None]]:
    """(advance, release): take one step by replaying a graph, and free what the graph holds.

    A network that cannot be captured (one that looks at values on the host, say) runs step by step instead, and
    `notify` is told. The batch's `seconds` say what warm-up and capture took.
    """
    device = step.parameter.device
    seconds = step.batch.seconds
    started = time.perf_counter()
    stream = torch.cuda.Stream(device)
    stream.wait_stream(torch.cuda.current_stream(device))
    with torch.cuda.stream(stream):
        for _ in range(WARM_UPS):
            step()
    torch.cuda.current_stream(device).wait_stream(stream)
    torch.cuda.synchronize(device)
    seconds["warm-up"] = time.perf_counter() - started
    started = time.perf_counter()
    graph = torch.cuda.CUDAGraph()
    try:
        with torch.cuda.graph(graph, stream=stream):
            step()
    except RuntimeError as error:
        if is_out_of_memory(error) or isinstance(error, FvfastError):
            raise
        torch.cuda.synchronize(device)
        reason = str(error).strip().splitlines()[0][:120]
        notify(f"this network cannot be captured as a CUDA graph ({reason}); running it step by step")
        step.reset()
        return step, lambda: None
    step.reset()
    torch.cuda.synchronize(device)
    seconds["capture"] = time.perf_counter() - started
    return graph.replay, graph.reset
