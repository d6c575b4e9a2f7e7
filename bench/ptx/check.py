"""Runs the project's compiled kernels in the emulator and compares them with float64 sums.

A line for each case: relative L2, largest and mean error of every tensor; violations below it. The exit status is 1
after any violation, any error over its limit, and any instruction that is not covered.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch

from bench.ptx.cases import Case, small_cases, small_warps
from bench.ptx.device import Device, Options
from bench.ptx.machine import Place
from bench.ptx.trial import Result, Trial, run_adam, run_warp

# Relative L2 of every tensor. Measured: fast 5e-4, exact 5e-7; sums cut off as tensor cores are said to, exact 4e-6.
LIMITS = {"fast": 1.5e-3, "exact": 6e-6}
WARP_LIMITS = {torch.float32: 2e-5, torch.float16: 1e-3, torch.bfloat16: 6e-3}
ADAM_LIMIT = 2e-6


@dataclass
class Summary:
    """What happened to all cases."""

    cases: list[dict[str, Any]] = field(default_factory=list)
    notes: Counter[str] = field(default_factory=Counter)

    def add(self, name: str, device: Device, run: Callable[[], Result], limit: Callable[[str], float]) -> None:
        """Runs a case and prints its lines."""
        started, problems = time.perf_counter(), []
        try:
            result = run()
        except NotImplementedError as error:
            result = Result()
            problems.append(f"not covered: {error}")
        for key, errors in result.errors.items():
            if not errors["l2"] <= limit(key) or not math.isfinite(errors["max"]):
                problems.append(f"error of {key}: {errors['l2']:.2e}, over {limit(key):.1e}")
        problems += [f"{n} of {key}: not written, or not zero" for key, n in result.missing.items() if n]
        for kernel, run_of_it in device.kernels:
            problems += [f"{kernel}: {line}" for line in run_of_it.findings.lines()]
            for (kind, _), count in run_of_it.findings.notes.items():
                self.notes[f"{kernel}: {kind}"] += count
        issued = sum(int(kernel.issues.sum()) for _, kernel in device.kernels)
        shown = " ".join(f"{key}={e['l2']:.1e}/{e['max']:.0e}/{e['bias']:+.0e}" for key, e in result.errors.items())
        seconds = time.perf_counter() - started
        print(
            f"{'FAIL' if problems else 'ok  '} {name} [{seconds:.1f} s, {issued} warp instructions] {shown}", flush=True
        )
        for line in problems[:20]:
            print(f"      {line}", flush=True)
        conflicts = {kernel: k.traffic.conflicts() for kernel, k in device.kernels if k.traffic is not None}
        for kernel, factor in conflicts.items():
            print(f"      {kernel}: shared-memory cycles {factor:.2f} times those without bank conflicts", flush=True)
        case = {"case": name, "arch": device.arch, "errors": result.errors, "problems": problems}
        self.cases.append(case | {"conflicts": conflicts})

    @property
    def failed(self) -> int:
        return sum(bool(case["problems"]) for case in self.cases)


def limits_of(case: Case) -> Callable[[str], float]:
    def limit(tensor: str) -> float:
        if tensor.startswith("view") and case.view_dtype == torch.float16:
            return LIMITS["fast"]
        return LIMITS[case.precision]

    return limit


def some_programs(launch: Any) -> list[Place]:
    """First, middle and last programs of the first and the last image or channel."""
    x, y = launch.grid[:2]
    return [(a, c, 0) for c in sorted({0, y - 1}) for a in sorted({0, x // 2, x - 1})]


def large_cases(size: str) -> list[Case]:
    """A square size, as "224" or "224full"."""
    if not size.removesuffix("full").isdecimal():
        raise argparse.ArgumentTypeError(f"{size!r} is neither small, nor a size such as 224 or 224full")
    n = int(size.removesuffix("full"))
    return [Case(n, n, (n, n), precision, "nhwc4", seed=3) for precision in LIMITS]


def parse(arguments: list[str] | None) -> argparse.Namespace:
    formatter = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser("python -m bench.ptx check", description=__doc__, formatter_class=formatter)
    parser.add_argument("--arch", type=int, nargs="+", default=[90, 80], help="90 for sm_90")
    parser.add_argument("--precision", nargs="+", default=list(LIMITS), choices=LIMITS)
    parser.add_argument("--size", default="small", help="small, or a size such as 224 (some programs), 224full (all)")
    parser.add_argument("--only", nargs="+", default=[""], metavar="TEXT", help="cases whose line holds one of these")
    parser.add_argument(
        "--tensor-core", default="nearest", choices=("nearest", "truncate"), help="how sums are rounded"
    )
    parser.add_argument("--noise", type=int, default=0, metavar="SEED", help="errors of approximate instructions")
    parser.add_argument("--measure", action="store_true", help="count bank conflicts too")
    parser.add_argument("--json", default="", metavar="FILE")
    options = parser.parse_args(arguments)
    try:
        options.cases = small_cases() if options.size == "small" else large_cases(options.size)
    except argparse.ArgumentTypeError as error:
        parser.error(str(error))
    return options


def main(arguments: list[str] | None = None) -> int:
    import triton

    o = parse(arguments)
    options, summary = Options(o.tensor_core == "truncate", o.noise, o.measure), Summary()
    print(f"# triton {triton.__version__}, torch {torch.__version__}; relative L2 / largest / mean error over rms")

    def add(arch: int, what: str, run: Callable[[Device], Result], limit: Callable[[str], float]) -> None:
        name = f"sm_{arch} {what}"
        if any(text in name for text in o.only):
            device = Device(arch, options)
            summary.add(name, device, lambda: run(device), limit)

    programs = None if o.size == "small" or o.size.endswith("full") else some_programs
    for arch in o.arch:
        for case in o.cases:
            if case.precision in o.precision:
                add(arch, str(case), lambda device, case=case: Trial(case, device, programs).run(), limits_of(case))
        if o.size != "small":
            continue
        for warp in small_warps():
            bound = WARP_LIMITS[warp.dtype]
            add(arch, str(warp), lambda device, warp=warp: run_warp(warp, device), lambda _, bound=bound: bound)
        for count in (1, 250):
            add(arch, f"adam {count}", lambda device, count=count: run_adam(5003, count, device), lambda _: ADAM_LIMIT)
    for name, count in sorted(summary.notes.items()):
        print(f"note {name}: {count}")
    print(f"# {len(summary.cases)} cases, {summary.failed} failed")
    if o.json:
        with open(o.json, "w") as file:
            json.dump({"triton": triton.__version__, "cases": summary.cases, "notes": summary.notes}, file, indent=1)
    if not summary.cases:
        print(f"No case holds {' or '.join(o.only)}.", file=sys.stderr)
        return 2
    return 1 if summary.failed else 0
