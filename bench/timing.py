"""Timing that can be trusted: warmed up, many samples, quantiles, and the copy speed of the same run beside them."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable

import torch


def sample(
    step: Callable[[], object],
    device: torch.device,
    seconds: float = 1.0,
    least: int = 5,
    before: Callable[[], object] = lambda: None,
) -> list[float]:
    """Milliseconds of single calls, for about `seconds`; by events on a GPU, by the clock elsewhere.

    before: called before each, outside the time.
    """
    for _ in range(3):
        before()
        step()
    samples: list[float] = []
    until = time.perf_counter() + seconds
    while len(samples) < least or time.perf_counter() < until:
        before()
        if device.type == "cuda":
            begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
            begin.record()
            step()
            end.record()
            end.synchronize()
            samples.append(begin.elapsed_time(end))
        else:
            started = time.perf_counter()
            step()
            samples.append((time.perf_counter() - started) * 1000)
    return samples


def quantiles(samples: list[float]) -> dict[str, float]:
    """The 20th, 50th and 80th percentile of samples."""
    if len(samples) == 1:
        return dict.fromkeys(("p20", "p50", "p80"), samples[0])
    cuts = statistics.quantiles(samples, n=10, method="inclusive")
    return {"p20": round(cuts[1], 4), "p50": round(cuts[4], 4), "p80": round(cuts[7], 4)}


def capture(step: Callable[[], object]) -> Callable[[], None]:
    """A function without arguments as a CUDA graph to replay: the strong baseline of any eager code."""
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(3):
            step()
    torch.cuda.current_stream().wait_stream(stream)
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        step()
    return graph.replay


def peak_bytes(step: Callable[[], object], device: torch.device) -> int:
    """How much more device memory a call takes at its peak than was allocated before it; 0 off a GPU."""
    if device.type != "cuda":
        return 0
    step()
    torch.cuda.synchronize(device)
    torch.cuda.reset_peak_memory_stats(device)
    before = torch.cuda.memory_allocated(device)
    step()
    torch.cuda.synchronize(device)
    return torch.cuda.max_memory_allocated(device) - before
