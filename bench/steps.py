"""The whole step, view to update, of a batch: fvfast's graph against the lucent-style loop and the reference path.

Every ratio stands behind a gate. From the same seeds, in float32, the kernels' objectives over eight steps must be
those of the reference path; and in half precision the first step's must be too (later ones drift apart by rounding,
which Adam amplifies). Where they are not, the ratio is withheld and the gate's figures are shown.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch

import fvfast
from bench.timing import capture, peak_bytes, quantiles, sample
from fvfast.expressions import Context
from fvfast.job import Job
from fvfast.lucent_style import lucent_style
from fvfast.models import Model
from fvfast.objectives import Channel
from fvfast.optimize import layers_of
from fvfast.plans import ImagePlan
from fvfast.prepare import Fast, prepare
from fvfast.recipes import RECIPES
from fvfast.session import Session
from fvfast.step import Batch, Step
from fvfast.together import Together

GATE_STEPS = 8
# Exact mode makes views to 2e-6; the interpreted kernels' objectives stay within 1e-3 over eight steps
# (tests/fvfast/test_step.py). A wrong view, gradient or moment shows by tens of per cent from the second step on.
EXACT_BOUND = 1e-2
# bfloat16 keeps 8 bits: one forward pass of GoogLeNet in it is within 1 % of float32.
HALF_BOUND = 2e-2


@dataclass(frozen=True)
class Case:
    """What is timed: a network without weights (random do for speed), a layer, a batch and a size."""

    model: str
    layer: str
    batch: int
    size: int


def measure(case: Case, device: torch.device, dtype: torch.dtype, seconds: float) -> dict[str, Any]:
    """Times of every path, the gate, and what they say; see `Case`."""
    graphs = device.type == "cuda"
    gate = _gate(case, device, dtype)
    ways: dict[str, Callable[[], Any]] = {}
    taken: list[Step] = []

    def step_of(path: str, graphed: bool) -> Callable[[], Any]:
        with backend(path):
            taken.append(step_of_case(case, device, dtype))
            return capture(taken[-1]) if graphed else taken[-1]

    ways["reference"] = step_of("reference", False)
    if graphs:
        ways["graphed"] = step_of("reference", True)
    ways["fvfast"] = step_of("auto", graphs)
    mine = taken[-1]
    network = _network(mine)
    ways["network alone"] = capture(network) if graphs else network
    loaded = fvfast.load(case.model, "none").module.eval().to(device)
    ways["lucent-style"] = lucent_style(loaded, case.layer, 0, case.batch, case.size)

    def rewind() -> None:
        """Back to the first views, before their table ends."""
        for step in taken:
            step.count.zero_()

    times = {}
    for name, way in ways.items():
        with backend("reference" if name == "reference" else "auto"):
            times[name] = quantiles(sample(way, device, seconds, before=rewind))
    p50 = {name: t["p50"] for name, t in times.items()}
    ratios = {f"over {name}": p50[name] / p50["fvfast"] for name in p50 if name not in ("fvfast", "network alone")}
    alone = peak_bytes(network, device)
    return {
        "case": f"{case.model} {case.layer}, {case.size} px, batch {case.batch}",
        "gate": gate,
        "ms": times,
        "ratios": ratios if gate["passed"] else None,
        "share outside the network": 1 - p50["network alone"] / p50["fvfast"],
        "peak memory over the network's own": (peak_bytes(mine, device) / alone) if alone else None,
    }


def _gate(case: Case, device: torch.device, dtype: torch.dtype) -> dict[str, Any]:
    """How far the kernels' objectives are from the reference path's, against the bounds."""
    precise = torch.backends.cudnn.allow_tf32
    torch.backends.cudnn.allow_tf32 = False
    try:
        with backend("reference"):
            truth = _history(case, device, torch.float32)
        exact, half = _history(case, device, torch.float32), _history(case, device, dtype)
    finally:
        torch.backends.cudnn.allow_tf32 = precise
    scale = truth.abs().amax(1)  # [steps]
    drift = float(((exact - truth).abs().amax(1) / scale).amax())
    first = float((half - truth)[0].abs().amax() / scale[0])
    return {
        "float32, 8 steps": drift,
        "bound": EXACT_BOUND,
        f"{str(dtype).removeprefix('torch.')}, first step": first,
        "bound of the first step": HALF_BOUND,
        "passed": drift <= EXACT_BOUND and first <= HALF_BOUND,
    }


def _history(case: Case, device: torch.device, dtype: torch.dtype) -> torch.Tensor:
    step = step_of_case(case, device, dtype)
    for _ in range(GATE_STEPS):
        step()
    return step.history[:GATE_STEPS].cpu()


def step_of_case(
    case: Case, device: torch.device, dtype: torch.dtype, weights: str = "none", steps: int | None = None
) -> Step:
    """A step of the default recipe; the images look for different channels of the layer.

    steps: how many there are views for; None for the recipe's own.
    """
    model: Model = fvfast.load(case.model, weights)
    job = Job(model, device, dtype, case.size, None)
    channels = job.layers[case.layer].channels
    recipe = replace(RECIPES["default"], steps=steps or RECIPES["default"].steps)
    plan = [ImagePlan(i, Channel(case.layer, i % channels), recipe, i) for i in range(case.batch)]
    wanted = layers_of([image.objective for image in plan])
    session = Session(job, plan, case.batch, None, None, None, None, lambda _: None)
    fast = prepare(
        job.module, job.layers, wanted, job.view, dtype, wide=device.type == "cuda" and dtype != torch.float32
    )
    session.channels = fast.channels
    (batch,) = session.batches()
    return Step(batch, fast)


def _network(step: Step) -> Callable[[], torch.Tensor]:
    """Forward, objective and gradient of the network alone, on a view that stays as it is."""
    batch: Batch = step.batch
    tap: Fast = step.tap
    view = batch.image.view(step.table[0]).detach().requires_grad_()
    objective = Together(batch.objectives)

    def run() -> torch.Tensor:
        value = objective(Context(tap(view, step.names), layers=tap.layers))
        return torch.autograd.grad(-value.sum(), view)[0]

    return run


@contextmanager
def backend(name: str) -> Iterator[None]:
    """Which path runs inside: "auto" or "reference"."""
    before = os.environ.get("FVFAST_KERNELS")
    os.environ["FVFAST_KERNELS"] = name
    try:
        yield
    finally:
        if before is None:
            del os.environ["FVFAST_KERNELS"]
        else:
            os.environ["FVFAST_KERNELS"] = before
