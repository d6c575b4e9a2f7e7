"""How fast this machine renders: fvfast's step against the loop as a user of lucent runs it, in half a minute.

The ways take turns, so that whatever else the machine does meets all of them. No ratio is given unless, in the same
run, the network that fvfast made fast was as near to float64 as the one it was made from (`fvfast.exactness`).
"""

from __future__ import annotations

import statistics
import threading
import time
from collections.abc import Callable
from typing import Any

import torch

from fvfast import models
from fvfast.errors import FvfastError
from fvfast.exactness import compare, verdict
from fvfast.expressions import Context
from fvfast.job import Job
from fvfast.layers import find
from fvfast.lucent_style import lucent_style
from fvfast.neutral import neutral
from fvfast.objectives import Channel
from fvfast.optimize import crew_size, keep_large_blocks
from fvfast.plans import ImagePlan
from fvfast.prepare import prepare
from fvfast.recipes import RECIPES
from fvfast.session import Session
from fvfast.stamps import machine
from fvfast.step import Step
from fvfast.together import Together

LAYER = "_blocks.10"  # of the bundled network: two thirds of the way through it
LUCENT, ONE, SIDE_BY_SIDE = "lucent-style loop", "fvfast, one image", "fvfast, images side by side"
LEAST_ROUNDS = 3


@neutral()
def measure(
    model: str = models.DEFAULT_MODEL,
    layer: str | None = None,
    *,
    size: int | None = None,
    seconds: float = 25.0,
    weights: str = "default",
    progress: Callable[[float, str], None] = lambda part, what: None,
    stop: Callable[[], bool] = lambda: False,
) -> dict[str, Any]:
    """Milliseconds a step of one image takes, each way, on this machine's processors in float32.

    layer: whose channels are looked for; None for the bundled network's `_blocks.10`. size: pixels, None for the
    network's own. seconds: how long to measure, after a few more to begin. progress: told which part is done.

    Returns
        model, layer, size: what was measured; threads: inside an operation, of the first two ways; workers: images
            side by side in the third, each on its share of the processors.
        gate: how far from float64 the plain and the fast network are, and whether that is near enough: as
            `exactness.verdict` tells it.
        rows: [{"way", "p20_ms", "p50_ms", "p80_ms", "steps_per_s"}]; a step is of one image.
        ratios: {way: how many times faster than the lucent-style loop}, or None where the gate failed.
        rounds, interrupted; machine: its stamp.

    Raises FvfastError where the model or layer cannot be had, or it was stopped before there was anything to tell.
    """
    loaded = models.load(model, weights)
    loaded.need_colours("the comparison with lucent")
    if layer is None and loaded.name != models.DEFAULT_MODEL:
        raise FvfastError(f"name a layer: `fvfast layers {loaded.name}` lists them")
    canvas = size or loaded.size
    job = Job(loaded, torch.device("cpu"), torch.float32, canvas, None)
    name = layer or LAYER
    channels = find(job.layers, name, loaded.name).channels
    workers, each = crew_size(None)
    keep_large_blocks()
    progress(0.0, "checking the results")
    steps = [_step(job, name, number % channels) for number in range(workers)]
    gate = _gate(job, steps[0])
    step = lucent_style(models.load(model, weights).module.eval(), name, 0, 1, canvas)
    ways: dict[str, Callable[[], float]] = {
        LUCENT: lambda: _timed(step),
        ONE: lambda: _timed(steps[0]),
        SIDE_BY_SIDE: lambda: _crew(steps, each),
    }
    times = _rounds(ways, seconds, progress, stop)
    rows = [{"way": way, **_quantiles(samples)} for way, samples in times.items()]
    slow = rows[0]["p50_ms"]
    return {
        "model": loaded.name,
        "layer": name,
        "size": canvas,
        "dtype": str(job.dtype).removeprefix("torch."),
        "threads": torch.get_num_threads(),
        "workers": workers,
        "gate": gate,
        "rows": rows,
        "ratios": {row["way"]: round(slow / row["p50_ms"], 2) for row in rows[1:]} if gate["passed"] else None,
        "rounds": len(times[LUCENT]),
        "interrupted": stop(),
        "machine": machine(),
    }


# The ways --------------------------------------------------------------------------------------------------


def _step(job: Job, layer: str, channel: int) -> Step:
    """A step of the default recipe for one image."""
    plan = [ImagePlan(0, Channel(layer, channel), RECIPES["default"], channel)]
    fast = prepare(job.module, job.layers, [layer], job.view, job.dtype, wide=False)
    session = Session(job, plan, 1, None, None, None, None, lambda _: None)
    session.channels = fast.channels
    (batch,) = session.batches()
    return Step(batch, fast)


def _timed(step: Callable[[], Any], count: int = 2) -> float:
    """Milliseconds a step of one image."""
    if isinstance(step, Step):
        step.count.zero_()  # back to the first views, before their table ends
    started = time.perf_counter()
    for _ in range(count):
        step()
    return (time.perf_counter() - started) * 1e3 / count


def _crew(steps: list[Step], threads: int, count: int = 2) -> float:
    """Milliseconds an image's step takes of the whole machine, when as many as fit run at once."""

    def work(step: Step) -> None:
        torch.set_num_threads(threads)
        step.count.zero_()
        for _ in range(count):
            step()

    crew = [threading.Thread(target=work, args=(step,)) for step in steps]
    before = torch.get_num_threads()
    started = time.perf_counter()
    for member in crew:
        member.start()
    for member in crew:
        member.join()
    seconds = time.perf_counter() - started
    torch.set_num_threads(before)
    return seconds * 1e3 / (count * len(steps))


def _rounds(
    ways: dict[str, Callable[[], float]],
    seconds: float,
    progress: Callable[[float, str], None],
    stop: Callable[[], bool],
) -> dict[str, list[float]]:
    """Samples of every way, which take turns for `seconds`; whole rounds only, the first, a warm-up, left out."""
    times: dict[str, list[float]] = {way: [] for way in ways}
    for way in ways.values():
        way()
    started = time.perf_counter()
    while True:
        for way, run in ways.items():
            times[way].append(run())
        done = time.perf_counter() - started
        medians = [statistics.median(samples) for samples in times.values()]
        progress(min(1.0, done / seconds), ", ".join(f"{ms:.0f} ms" for ms in medians))
        if stop() or (done >= seconds and len(times[LUCENT]) >= LEAST_ROUNDS):
            return times


def _quantiles(samples: list[float]) -> dict[str, float]:
    cuts = samples * 9 if len(samples) == 1 else statistics.quantiles(samples, n=10, method="inclusive")
    p20, p50, p80 = cuts[1], cuts[4], cuts[7]
    return {
        "p20_ms": round(p20, 3),
        "p50_ms": round(p50, 3),
        "p80_ms": round(p80, 3),
        "steps_per_s": round(1e3 / p50, 2),
    }


# The gate --------------------------------------------------------------------------------------------------


def _gate(job: Job, step: Step) -> dict[str, Any]:
    """How far from float64 the fast network and the plain one are, in activations and gradient of a view."""
    view = step.image.view(step.table[0]).detach()
    objective = Together(step.batch.objectives)

    def value(activations: dict[str, torch.Tensor]) -> torch.Tensor:
        return objective(Context(activations, layers=step.tap.layers))

    return verdict(compare(job.module, job.layers, step.fast, step.names, view, value))
