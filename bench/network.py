"""The forms of a network on a GPU against each other, and where the time of its passes goes; needs an NVIDIA GPU.

    python -m bench.network --json FILE            GoogLeNet, ResNet-50, EfficientNet-Lite0 at 224 px, batches 1, 16, 64
    python -m bench.network --json FILE --quick    batches 1 and 16, without "compiled"
    python -m bench.network --arithmetic            what the passes must compute and move (bench.roofline); needs no GPU

For every form (`fvfast.forms`): milliseconds of the network's forward and backward pass alone and of a whole step, both
captured and replayed, by events; how far its outputs are from the untouched float32 network, and whether that passes;
what it took to have it; and, of the pass run eagerly, the kernels that took most time, with what they did. FILE is
rewritten whole after every form. Random weights do for speed.
"""

from __future__ import annotations

import argparse
import dataclasses
import functools
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile

import fvfast
from bench import roofline
from bench.gpu.findings import Findings, seconds_left
from bench.record import machine
from bench.report import table
from bench.steps import Case, step_of_case
from bench.timing import quantiles, sample
from fvfast.choosing import Trial, alone, samples
from fvfast.errors import FvfastError, is_out_of_memory
from fvfast.forms import COMPILED, FORMS, Form
from fvfast.graph import choosing, record
from fvfast.job import Job
from fvfast.layers import Tap
from fvfast.prepare import prepare
from fvfast.recorded import tape_of
from fvfast.step import Step
from fvfast.tape import in_short

SIZE, BATCHES = 224, (1, 16, 64)
PLAIN = tuple(form for form in FORMS if form != COMPILED)
COMPILING_S = 60.0  # with less time than this left, nothing more is compiled
SHOWN, PROFILED = 12, 5  # kernels of a profile, and the passes that it watches
PARTS = ("convolution forward", "data gradient", "layout", "copy", "elementwise", "other")


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, help="where to write what was measured")
    parser.add_argument("--quick", action="store_true", help="small batches, nothing compiled")
    parser.add_argument("--arithmetic", action="store_true", help="count what the passes compute and move; no GPU")
    options = parser.parse_args(arguments)
    if options.arithmetic:
        print(arithmetic())
        return 0
    if not torch.cuda.is_available():
        print("bench.network needs an NVIDIA GPU: torch finds none here.", file=sys.stderr)
        return 2
    with profile(activities=[ProfilerActivity.CPU, ProfilerActivity.CUDA]):
        pass  # the profiler has to be started once by the main thread before others can use it
    findings = Findings(options.json, machine=machine())
    chosen = cases(BATCHES[:2] if options.quick else BATCHES)
    for case in chosen:
        findings.add(begun(case, torch.bfloat16))
    # Compiling takes a minute a case: it comes last, when all the others are there.
    for forms in (PLAIN,) if options.quick else (PLAIN, (COMPILED,)):
        for case, row in zip(chosen, findings.rows, strict=True):
            if forms == (COMPILED,) and seconds_left() < COMPILING_S:
                row["forms"][COMPILED] = {"refused": "no time was left to compile it"}
                continue
            measure(case, torch.device("cuda"), forms, row, findings.write)
            print(f"{case.name}: {', '.join(forms)}", flush=True)
            torch.cuda.empty_cache()
    for row in findings.rows:
        forms = row["forms"].values()
        row["passed"] = "error" not in row and all("error" not in form and form.get("passed", True) for form in forms)
    print(markdown(findings.document))
    return findings.end()


def cases(batches: Iterable[int]) -> list[Case]:
    """What is measured: the smallest batches first, so that a short run has seen every network."""
    return [Case(model, layer, batch, SIZE) for batch in batches for model, layer in networks()]


def networks() -> list[tuple[str, str]]:
    """Models and layers; timm's EfficientNet-Lite0 where the one with weights is not installed."""
    try:
        fvfast.load()
        lite = ("efficientnet_lite0", "_blocks.10")
    except (ImportError, FvfastError):
        lite = ("timm:efficientnet_lite0", "blocks.4.2")
    return [("googlenet", "inception4a"), ("resnet50", "layer3"), lite]


# One case --------------------------------------------------------------------------------------------------


def begun(case: Case, dtype: torch.dtype) -> dict[str, Any]:
    """The row of a case of which nothing is known yet."""
    return {**dataclasses.asdict(case), "dtype": str(dtype).removeprefix("torch."), "forms": {}}


def measure(
    case: Case, device: torch.device, forms: Sequence[str], row: dict[str, Any], keep: Callable[[], object]
) -> None:
    """One network at one batch size in some forms, into its row; what fails is told in the place of its figures.

    keep: called whenever the row has grown.
    """
    try:
        step = step_of_case(case, device, getattr(torch, row["dtype"]))
        step.batch.redirect = 0  # whether images are dead at the start is another question
        view = step.image.view(step.table[0]).detach()
        untouched = Job(fvfast.load(case.model, "none"), device, view.dtype, case.size, None)
        with Tap(untouched.module, untouched.layers, step.names) as tap:
            trial = Trial(step.fast, tap, view, step.names)
            for name in forms:
                row["forms"][name] = _form(trial, name, step, device)
                keep()
                if device.type == "cuda":
                    torch.cuda.empty_cache()
    except Exception as error:
        row["error"] = "out of memory" if is_out_of_memory(error) else in_short(error)
        keep()


def _form(trial: Trial, name: str, step: Step, device: torch.device) -> dict[str, Any]:
    found: dict[str, Any] = {}
    started = time.perf_counter()
    try:
        run, reason = trial.make(name)
        found["seconds to have it"] = round(time.perf_counter() - started, 2)
        if reason:
            return {**found, "refused": reason}
        tuned, passes = Form(name).tuned, trial.modules if run is None else run
        with choosing(False):
            outputs, _ = trial.look(passes)
        found |= {"error of the outputs": trial.error(outputs), "passed": True}  # else it had been refused
        del outputs
        found["pass ms"] = quantiles(alone(lambda: samples(passes, trial.view, tuned)))
        step.fast.forms[tuple(step.names), len(trial.view)] = Form(name, run=run)
        found["step ms"] = quantiles(alone(lambda: _steps(step, device)))
        found["profile"] = alone(lambda: profiled(passes, trial.view, tuned))
    except Exception as error:
        found["error"] = "out of memory" if is_out_of_memory(error) else in_short(error)
    return found


def _steps(step: Step, device: torch.device) -> list[float]:
    """Milliseconds of whole steps, captured and replayed."""
    recording = record(step, lambda sentence: print(sentence, file=sys.stderr))
    try:
        return sample(recording.advance, device, 0.5, before=step.count.zero_)
    finally:
        recording.release()


# Where the time goes ---------------------------------------------------------------------------------------


def profiled(run: Callable[[torch.Tensor], list[torch.Tensor]], view: torch.Tensor, tuned: bool) -> dict[str, Any]:
    """The kernels of forward and backward passes that are run one operation after the other."""
    leaf = view.detach().requires_grad_()

    def once() -> None:
        outputs = run(leaf)
        torch.autograd.grad(outputs, leaf, [torch.ones_like(output) for output in outputs])

    with choosing(tuned):
        for _ in range(3):
            once()
        torch.cuda.synchronize(view.device)
        with profile(activities=[ProfilerActivity.CPU, ProfilerActivity.CUDA]) as seen:
            for _ in range(PROFILED):
                once()
            torch.cuda.synchronize(view.device)
    return summed(seen.events() or [], PROFILED)


def summed(events: Iterable[Any], passes: int) -> dict[str, Any]:
    """Microseconds a pass by kernel, and the share of each of `PARTS`. events: the profiler's, with their kernels."""
    times: dict[tuple[str, str], float] = defaultdict(float)
    for event in events:
        for kernel in event.kernels:
            times[kernel.name, part_of(kernel.name, _callers(event))] += kernel.duration / passes
    total = sum(times.values()) or 1.0
    most = sorted(times.items(), key=lambda item: -item[1])[:SHOWN]
    shares = {part: round(sum(t for (_, p), t in times.items() if p == part) / total, 4) for part in PARTS}
    rows = [{"kernel": name[:120], "part": part, "us": round(us, 2)} for (name, part), us in most]
    return {"us a pass": round(total, 2) if times else 0.0, "shares": shares, "kernels": rows}


def _callers(event: Any) -> list[str]:
    """The names of the operations that an event lies in, its own first."""
    names: list[str] = []
    while event is not None:
        names.append(event.name)
        event = event.cpu_parent
    return names


def part_of(kernel: str, callers: list[str]) -> str:
    """Which of `PARTS` a kernel belongs to, by its own name and by the operations that launched it."""
    name = kernel.lower()
    if "nchwtonhwc" in name or "nhwctonchw" in name or "tensortransform" in name:
        return "layout"
    if name.startswith(("memcpy", "memset")) or any(caller in ("aten::copy_", "aten::clone") for caller in callers):
        return "copy"
    if "elementwise" in name or name.startswith("triton_"):
        return "elementwise"
    if any("convolution_backward" in caller or "convolution_transpose" in caller for caller in callers):
        return "data gradient"
    if any("conv" in caller for caller in callers):
        return "convolution forward"
    return "other"


# Words -----------------------------------------------------------------------------------------------------


def markdown(report: dict[str, Any]) -> str:
    """What was measured, for people."""
    header = ["network", "form", "pass ms", "step ms", "error", "seconds", *PARTS[:4]]
    rows: list[list[str]] = []
    for row in report["rows"]:
        case = f"{row['model']} {row['layer']}, {row['size']} px, batch {row['batch']}"
        if "error" in row:
            rows.append([case, row["error"], *[""] * 8])
        for name, form in row["forms"].items():
            why = form.get("refused") or form.get("error")
            if why:
                rows.append([case, name, why, *[""] * 7])
                continue
            shares = [f"{form['profile']['shares'][part]:.0%}" for part in PARTS[:4]]
            times = [f"{form[what]['p20']:.3f} / {form[what]['p50']:.3f} / {form[what]['p80']:.3f}" for what in TIMES]
            error, seconds = f"{form['error of the outputs']:.1e}", f"{form['seconds to have it']:.1f}"
            rows.append([case, name, *times, error, seconds, *shares])
    return table(header, rows)


TIMES = ("pass ms", "step ms")


def arithmetic(batches: Iterable[int] = (1, 64)) -> str:
    """The table of `bench.roofline` for GoogLeNet and EfficientNet-Lite0, as Markdown."""
    rows: list[list[str]] = []
    for model, layer in (networks()[0], networks()[2]):
        job = Job(fvfast.load(model, "none"), torch.device("cpu"), torch.float32, SIZE, None)
        with prepare(job.module, job.layers, [layer], SIZE, torch.float32) as fast:
            tap = fast.tap([layer])
            for batch in batches:
                image = torch.empty(batch, 3, SIZE, SIZE).contiguous(memory_format=torch.channels_last)
                tape = tape_of(functools.partial(_outputs, tap, layer), image)
                for way, count in roofline.counted(tape).items():
                    each = {key: value / batch for key, value in count.items() if key != "kernels"}
                    rows.append(
                        [
                            f"{model} {layer}, batch {batch}, {way}",
                            f"{count['kernels']:.0f}",
                            f"{each['gflop']:.2f}",
                            f"{each['mb']:.1f}",
                            f"{each['mb between']:.1f}",
                            f"{each['us']:.1f}",
                            f"{each['us between']:.1f}",
                        ]
                    )
    return table(["network, way", "kernels", "Gflop", "MB", "between", "us", "between"], rows)


def _outputs(tap: Tap, layer: str, image: torch.Tensor) -> list[torch.Tensor]:
    return list(tap(image, [layer]).values())


if __name__ == "__main__":
    sys.exit(main())
