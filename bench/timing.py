"""Timing that can be trusted: warmed up, many samples, quantiles, and the copy speed of the same run beside them."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence

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


def queued(steps: Sequence[Callable[[], object]], seconds: float, least: int = 20, most: int = 400) -> list[float]:
    """Milliseconds on the GPU of single calls, queued in turn from `steps` without waiting between them.

    What the device takes, where the host keeps ahead of it; `repeated` makes it so for short work.
    """
    pairs: list[tuple[torch.cuda.Event, torch.cuda.Event]] = []
    started = time.perf_counter()
    while len(pairs) < least or (len(pairs) < most and time.perf_counter() - started < seconds):
        begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        begin.record()
        steps[len(pairs) % len(steps)]()
        end.record()
        pairs.append((begin, end))
    torch.cuda.synchronize()
    return [begin.elapsed_time(end) for begin, end in pairs]


def copy_rate(nbytes: int = 1 << 30) -> float:
    """Bytes a second that a copy of a large tensor reads and writes on the GPU."""
    source = torch.empty(nbytes, dtype=torch.uint8, device="cuda")
    target = torch.empty_like(source)
    milliseconds = quantiles(queued([lambda: target.copy_(source)], 0.05))["p50"]
    return 2 * nbytes / (milliseconds * 1e-3)


def quantiles(samples: list[float]) -> dict[str, float]:
    """The 20th, 50th and 80th percentile of samples."""
    if len(samples) == 1:
        return dict.fromkeys(("p20", "p50", "p80"), samples[0])
    cuts = statistics.quantiles(samples, n=10, method="inclusive")
    return {"p20": round(cuts[1], 4), "p50": round(cuts[4], 4), "p80": round(cuts[7], 4)}


def capture(step: Callable[[], object], warm_ups: int = 3) -> Callable[[], None]:
    """A function without arguments as a CUDA graph to replay: the strong baseline of any eager code."""
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(warm_ups):
            step()
    torch.cuda.current_stream().wait_stream(stream)
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        step()
    return graph.replay


def repeated(steps: Sequence[Callable[[], object]], times: int) -> Callable[[], None]:
    """A CUDA graph of so many calls, in turn from `steps`: its time over `times` is a call's, without the host's."""

    def run() -> None:
        for n in range(times):
            steps[n % len(steps)]()

    return capture(run, warm_ups=1)


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
