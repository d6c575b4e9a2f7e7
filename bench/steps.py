"""The whole step, view to update, of a batch: fvfast's graph against the lucent-style loop and the reference path.

    python -m bench.steps googlenet inception4a 64 224 --json FILE      one case: network, layer, batch, pixels

Every ratio stands behind a gate. From the same seeds, in float32, the kernels' objectives over eight steps must be
those of the reference path; and in half precision the first step's must be too (later ones drift apart by rounding,
which Adam amplifies). Where they are not, the ratio is withheld and the gate's figures are shown. Ways are made,
timed and freed one after the other; one that runs out of memory is named, and leaves the others to go on.

    fvfast         the fused kernels around the network, one CUDA graph a step
    graphed        the reference path in a CUDA graph: the strong baseline
    reference      the reference path, eager
    lucent-style   the loop as a user of lucent runs it
    compiled       the reference path under torch.compile, the network cut off at the layer
    network alone  forward and gradient of the network on a view that stays as it is, as fvfast runs it
"""

from __future__ import annotations

import gc
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch
from fvfast_kernels import reference
from fvfast_kernels.geometry import Epilogue, Geometry

import fvfast
from bench.gpu.findings import Findings, needs_gpu, seconds_left, stage_parser
from bench.timing import capture, peak_bytes, quantiles, sample
from fvfast.errors import is_out_of_memory
from fvfast.expressions import Context
from fvfast.images import Fourier
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

    @property
    def name(self) -> str:
        return f"{self.model} {self.layer}, {self.size} px, batch {self.batch}"


WAYS = ("fvfast", "graphed", "reference", "lucent-style")  # torch.compile's takes long: only where it is asked for
BASELINES = ("lucent-style", "reference", "graphed", "compiled")
COMPILING_S = 10.0  # with less time than this left, torch.compile is not begun


def measure(
    case: Case,
    device: torch.device,
    dtype: torch.dtype,
    seconds: float,
    ways: tuple[str, ...] = WAYS,
    keep: Callable[[dict[str, Any]], object] = lambda row: None,
) -> dict[str, Any]:
    """Times of every way, the gate, and what they say; see `Case`. keep: shown the row as it fills.

    `failures` says of each way that has no time why: a baseline's are its own.
    """
    row: dict[str, Any] = {"case": case.name, "ms": {}, "failures": {}, "ratios": None}
    with _failing(row, "gate"):
        row["gate"] = _gate(case, device, dtype)
    keep(row)
    graphs = device.type == "cuda"
    for name in ways:
        if name == "graphed" and not graphs:
            continue
        if name == "compiled" and seconds_left() < COMPILING_S:
            row["failures"][name] = "no time was left to compile it"
            continue
        with _failing(row, name):
            if name == "fvfast":
                _ours(case, device, dtype, seconds, row)
            else:
                with backend("auto" if name == "lucent-style" else "reference"):
                    way, rewind = _baseline(name, case, device, dtype)
                    row["ms"][name] = quantiles(sample(way, device, seconds, before=rewind))
                    del way, rewind
        _free(device)
        _compare(row)
        keep(row)
    return row


def _ours(case: Case, device: torch.device, dtype: torch.dtype, seconds: float, row: dict[str, Any]) -> None:
    """fvfast's own step, and the network alone in the form that fvfast gave it."""
    with backend("auto"):
        step = step_of_case(case, device, dtype)
        network = _network(step)
        graphs = device.type == "cuda"
        for name, work in (("fvfast", step), ("network alone", network)):
            way = capture(work) if graphs else work
            row["ms"][name] = quantiles(sample(way, device, seconds, before=step.count.zero_))
        alone = peak_bytes(network, device)
        step.count.zero_()
        row["peak memory over the network's own"] = (peak_bytes(step, device) / alone) if alone else None


def _baseline(
    name: str, case: Case, device: torch.device, dtype: torch.dtype
) -> tuple[Callable[[], object], Callable[[], object]]:
    """(a step of a way, what takes it back to the first views before their table ends)."""
    if name == "lucent-style":
        module = fvfast.load(case.model, "none").module.eval().to(device)
        return lucent_style(module, case.layer, 0, case.batch, case.size), lambda: None
    if name == "compiled":
        return compiled(case, device, dtype), lambda: None
    step = step_of_case(case, device, dtype)
    return (capture(step) if name == "graphed" else step), step.count.zero_


def compiled(case: Case, device: torch.device, dtype: torch.dtype, backend: str = "inductor") -> Callable[[], object]:
    """A step of the reference path as torch.compile makes it: views, network and objective, and the fused Adam.

    The network is cut off at the layer by torchvision, since fvfast's own way to stop there is none that Dynamo
    follows. Views are those of one step of the default recipe, again and again.
    """
    from torchvision.models.feature_extraction import create_feature_extractor

    step = step_of_case(case, device, dtype)
    image, frame = step.image, step.image.frame
    assert isinstance(image, Fourier)
    module = fvfast.load(case.model, "none").module.eval().requires_grad_(False)
    network = create_feature_extractor(module, {case.layer: "out"})
    network = network.to(device=device, dtype=dtype, memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
    geometry = Geometry(frame.size, frame.size, frame.view, frame.view)
    epilogue = Epilogue(image.colour, frame.mean, frame.std, image.gain)
    rows = torch.arange(case.batch, device=device)
    parameter = step.parameter.detach().clone().requires_grad_()
    views, envelope = step.table[0, :, :5].contiguous(), image.envelope

    def loss(spectrum: torch.Tensor) -> torch.Tensor:
        view, _ = reference.synthesize(spectrum, envelope, views, geometry, epilogue, "nhwc", dtype)
        maps = network(view)["out"]  # [B, C, h, w]
        return -maps[rows, rows % maps.shape[1]].float().mean((1, 2)).sum()

    torch._dynamo.reset()
    compiled_loss = torch.compile(loss, dynamic=False, backend=backend)
    optimizer = torch.optim.Adam([parameter], lr=0.05, fused=True)

    def run() -> None:
        compiled_loss(parameter).backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    return run


def _compare(row: dict[str, Any]) -> None:
    """The ratios that the times so far allow, behind the gate."""
    p50 = {name: times["p50"] for name, times in row["ms"].items()}
    if "fvfast" not in p50:
        return
    if "network alone" in p50:
        row["share outside the network"] = 1 - p50["network alone"] / p50["fvfast"]
    if row.get("gate", {}).get("passed"):
        row["ratios"] = {f"over {name}": p50[name] / p50["fvfast"] for name in BASELINES if name in p50}


@contextmanager
def _failing(row: dict[str, Any], name: str) -> Iterator[None]:
    """Whatever is raised inside becomes the failure of one way."""
    try:
        yield
    except Exception as error:
        first = (str(error).strip().splitlines() or [""])[0][:300]
        row["failures"][name] = "out of memory" if is_out_of_memory(error) else f"{type(error).__name__}: {first}"


def _free(device: torch.device) -> None:
    """Give back what a way has used, so that the next one has the whole device."""
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()


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
        _free(device)
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
    tap: Fast = step.fast
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


def main() -> int:
    parser = stage_parser(__doc__)
    parser.add_argument("model")
    parser.add_argument("layer")
    parser.add_argument("batch", type=int)
    parser.add_argument("size", type=int, help="pixels")
    parser.add_argument("--seconds", type=float, default=0.5, help="about how long to time each way")
    parser.add_argument("--compiled", action="store_true", help="fvfast and the compiled way only")
    parser.add_argument("--compile-only", action="store_true", help="only fill Inductor's cache, and time nothing")
    options = parser.parse_args()
    if not needs_gpu("bench.steps"):
        return 2
    case, device = Case(options.model, options.layer, options.batch, options.size), torch.device("cuda")
    if options.compile_only:
        with backend("reference"):
            compiled(case, device, torch.bfloat16)()
        return 0
    findings = Findings(options.json)
    ways = ("fvfast", "compiled") if options.compiled else WAYS
    seconds = 0.1 if options.quick else options.seconds
    row = measure(case, device, torch.bfloat16, seconds, ways, lambda row: findings.say(**row))
    row["passed"] = "fvfast" in row["ms"] and bool(row.get("gate", {}).get("passed"))
    print(in_words(row), flush=True)
    findings.say(**row, finished=True)
    return 0 if row["passed"] else 1


def in_words(row: dict[str, Any]) -> str:
    """One line on a case."""
    gate = "gate passed" if row.get("gate", {}).get("passed") else f"GATE FAILED {row.get('gate', '')}"
    times = ", ".join(f"{name} {times['p50']:.2f}" for name, times in row["ms"].items())
    failures = ", ".join(f"{name}: {why}" for name, why in row["failures"].items())
    return f"{row['case']}: {gate}; ms: {times or 'none'}{'; ' if failures else ''}{failures}"


if __name__ == "__main__":
    sys.exit(main())
