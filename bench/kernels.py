"""The fused kernels against PyTorch doing the same work; needs an NVIDIA GPU.

    python -m bench.kernels                                   224 px at batch 64, 1, 256 and 512 px at batch 16
    python -m bench.kernels --size 224 --batch 64 --json results.json
    python -m bench.kernels --reference                       the reference instead, on this CPU; needs no GPU

The work is everything of a step outside the network (`bench.gpu.problem`), done in the ways of `bench.gpu.ways`; then
kernel by kernel, with other tiles beside the launch table's (`bench.gpu.tiles`). Errors against float64 come first,
and no ratio is printed for a way whose result in this very run is wrong. Bytes are those of the fused design, counted
by hand; their rate is given as a fraction of the rate of a large copy, measured first. These are speeds of this part
of a step, not of a step.
"""

from __future__ import annotations

import itertools
import statistics
import sys
import time
from typing import Any

import torch
from fvfast_kernels import synthesize

from bench.gpu.findings import Findings, needs_gpu, stage_parser
from bench.gpu.problem import COLOUR, MEAN, STD, TOLERANCE, Problem, Truth, step_bytes
from bench.gpu.tiles import gate, measure_tiles
from bench.gpu.ways import WAYS, build, finish, precision_of
from bench.gpu.words import ways_table
from bench.report import stamp
from bench.tables import table
from bench.timing import copy_rate, quantiles, queued

CASES = ((224, 64), (224, 1), (512, 16), (224, 256))  # px, batch; what says most first
TILED = ((224, 64), (224, 1), (512, 16))  # where other tiles are tried
QUICK = ((224, 16), (224, 1))


def measure_way(way: str, problem: Problem, truth: Truth, seconds: float, rate: float) -> dict[str, Any]:
    """A way's error after one step, and its times."""
    steps = build(way, problem)
    error = problem.gradient_error(truth)
    precision = precision_of(way)
    ms = quantiles(queued(finish(way, steps), seconds))
    moved = problem.batch * sum(step_bytes(problem.size, precision).values()) if way.startswith("kernels") else None
    right = error < TOLERANCE[precision]
    return {
        "size": problem.size, "batch": problem.batch, "path": way, **{f"{key}_ms": value for key, value in ms.items()},
        "error": error, "right": right, "passed": right or not way.startswith("kernels"),
        "of_copy": moved / (ms["p50"] * 1e-3) / rate if moved else None,
    }  # fmt: skip


def gates(problem: Problem, truth: Truth, findings: Findings) -> None:
    """The kernels' errors against float64, before anything is timed."""
    for precision in ("fast", "exact"):
        with findings.case(f"{precision}, {problem.size} px, batch {problem.batch}", "gates") as row:
            row |= gate(problem, precision, {}, truth)
            row["words"] = "right" if row["passed"] else f"WRONG: {row['errors']}"


def measure(cases: tuple[tuple[int, int], ...], seconds: float, findings: Findings) -> None:
    """Everything, what says most first: errors, kernels one by one, ways; what torch.compile takes long for, last."""
    rate = copy_rate()
    findings.say(machine=stamp(), copy_bytes_per_second=rate)
    for size, batch in cases:
        problem = Problem(size, batch)
        gates(problem, problem.truth(), findings)
    for compiled, (size, batch) in itertools.product((False, True), cases):
        problem = Problem(size, batch)
        truth = problem.truth()
        for way in [way for way in WAYS if (way == "compiled") == compiled]:
            with findings.case(f"{way}, {size} px, batch {batch}") as row:
                row |= measure_way(way, problem, truth, seconds, rate)
                row["words"] = f"{'' if row['right'] else 'WRONG, '}{row['p50_ms']:.3f} ms"
            torch.cuda.empty_cache()
        if not compiled and (size, batch) in (*TILED, *QUICK):
            measure_tiles(problem, truth, rate, seconds / 4, findings)


def reference_times(size: int, batch: int) -> str:
    """The reference on the CPU, forward and backward: kinds of views."""
    still = torch.tensor([0.0, 0.0, 1.0, 1.0, 0.0]).expand(batch, 5)
    drawn = torch.rand(batch, 5, generator=torch.Generator().manual_seed(1))
    kinds = {
        "canvas": still,
        "whole-pixel shifts": still + (16 * drawn * torch.tensor([1, 1, 0, 0, 0])).round(),
        "shift, zoom": still + drawn * torch.tensor([16, 16, 0.2, 0.2, 0]),
        "shift, zoom, shear": still + drawn * torch.tensor([16, 16, 0.2, 0.2, 0.3]),
    }
    spectrum = torch.randn(batch, 3, 2, size, size // 2 + 1, requires_grad=True)
    envelope, cotangent = torch.rand(size, size // 2 + 1), torch.randn(batch, 3, size, size)
    rows = []
    for name, views in kinds.items():
        times = []
        for _ in range(15):
            begin = time.perf_counter()
            view = synthesize(
                spectrum, envelope, views, width=size, out_size=(size, size), colour=torch.tensor(COLOUR),
                mean=torch.full((3,), MEAN), std=torch.full((3,), STD), backend="reference",
            )  # fmt: skip
            torch.autograd.grad(view, spectrum, cotangent)
            times.append((time.perf_counter() - begin) * 1e3 / batch)
        rows.append([name, str(size), str(batch), f"{statistics.median(times):.2f}"])
    return table(("views", "px", "batch", "ms an image"), rows)


def main() -> int:
    parser = stage_parser(__doc__)
    parser.add_argument("--size", type=int, nargs="+", help="pixels; with --batch, instead of the usual cases")
    parser.add_argument("--batch", type=int, nargs="+", default=[1, 64])
    parser.add_argument("--seconds", type=float, default=0.1, help="about how long to time each way")
    parser.add_argument("--reference", action="store_true", help="time the reference on the CPU")
    options = parser.parse_args()
    if options.reference:
        print(f"{stamp()}\n\n{reference_times(224, 8)}")
        return 0
    if not needs_gpu("bench.kernels"):
        return 2
    cases = QUICK if options.quick else CASES
    if options.size:
        cases = tuple(itertools.product(options.size, options.batch))
    findings = Findings(options.json)
    measure(cases, options.seconds, findings)
    print("\n" + ways_table(findings.rows))
    return findings.end()


if __name__ == "__main__":
    sys.exit(main())
