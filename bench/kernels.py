"""The fused kernels against PyTorch doing the same work; needs an NVIDIA GPU.

    python -m bench.kernels                                   224 and 512 px, batches 1, 16, 64, 256
    python -m bench.kernels --size 224 --batch 64 --json results.json
    python -m bench.kernels --reference                       the reference instead, on this CPU; needs no GPU

The work is everything of a step outside the network: spectrum -> half-precision view, and the view's gradient ->
Adam's update of the spectrum. Views are whole-pixel shifts, one for the batch, so that irfft2 and roll are the same
work; the kernels take any views at the same cost.

    eager     as a user would write it: irfft2, roll, einsum, sigmoid, autograd, torch.optim.Adam
    compiled  the same under torch.compile, with the fused Adam
    graphed   eager with the fused Adam, replayed as a CUDA graph
    kernels   four launches; "kernels graphed": replayed as a CUDA graph

No ratio is printed for a path whose result in this very run is not the float64 reference's. Buffers rotate through
more memory than the L2 cache holds. Bytes are those of the fused design, counted by hand in `step_bytes`; their rate is
given as a fraction of the rate of a large copy, measured first. These are speeds of this part of a step, not of a step.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from fvfast_kernels import Buffers, synthesize, synthesize_adjoint_adam_, synthesize_into
from fvfast_kernels.geometry import Epilogue, Geometry
from torch import Tensor

from bench.report import stamp, table

COLOUR = ((0.56, 0.19, 0.04), (0.58, 0.0, -0.11), (0.58, -0.19, 0.06))
MEAN, STD, LR, SHIFT = 0.45, 0.225, 0.05, (5, -9)
# Relative L2 error of the gradient against float64: what each precision promises; float32 FFTs reach 5e-7.
TOLERANCE = {"exact": 2e-6, "fast": 6e-4}
ROTATED_BYTES = 256e6  # several times any L2 cache


def step_bytes(size: int, precision: str) -> dict[str, float]:
    """Bytes an image that each fused kernel has to move, at size x size, with a view of four half-precision planes."""
    spectrum = 3 * 2 * size * (size // 2 + 1) * 4
    y = 3 * 2 * size * (-(-(size // 2 + 1) // 8) * 8) * 4
    view = 4 * size * size * 2
    sigmoid = 3 * size * size * (4 if precision == "exact" else 2)
    return {
        "columns": spectrum + y,
        "rows": y + view + sigmoid,
        "rows_adjoint": view + sigmoid + y,
        "columns_adjoint": y + 6 * spectrum,  # reads and writes the spectrum and two moments
    }


@dataclass
class State:
    """One set of everything that a step reads and writes."""

    spectrum: Tensor
    grad: Tensor  # of the view, [B, 4, R, R] half, channels-last
    exp_avg: Tensor
    exp_avg_sq: Tensor


class Problem:
    """The inputs of one size and batch, and as many sets of them as defeat the cache."""

    def __init__(self, size: int, batch: int) -> None:
        self.size, self.batch = size, batch
        generator = torch.Generator("cuda").manual_seed(1)
        shape = (batch, 3, 2, size, size // 2 + 1)
        fy, fx = torch.fft.fftfreq(size)[:, None], torch.fft.rfftfreq(size)[None]
        self.envelope = (1 / torch.hypot(fy, fx).clamp(min=1 / size)).cuda()
        self.colour = torch.tensor(COLOUR).cuda()
        self.mean, self.std = torch.full((3,), MEAN).cuda(), torch.full((3,), STD).cuda()
        view = torch.tensor([*SHIFT, 1.0, 1.0, 0.0]).expand(1, batch, 5)
        self.views, self.step = view.contiguous().cuda(), torch.zeros(1, dtype=torch.int32).cuda()
        self.lr = torch.full((batch,), LR).cuda()
        sets = min(16, max(2, int(ROTATED_BYTES / (batch * sum(step_bytes(size, "fast").values())))))
        self.states = []
        for _ in range(sets):
            spectrum = torch.randn(shape, generator=generator, device="cuda") * 0.4
            grad = torch.randn((batch, 4, size, size), generator=generator, device="cuda").half()
            grad = grad.contiguous(memory_format=torch.channels_last)
            self.states.append(State(spectrum, grad, torch.zeros_like(spectrum), torch.zeros_like(spectrum)))

    def truth(self) -> Tensor:
        """The gradient of the first image of the first set, in float64 on the CPU."""
        spectrum = self.states[0].spectrum[:1].double().cpu().requires_grad_()
        view = synthesize(
            spectrum,
            self.envelope.double().cpu(),
            self.views[0, :1].double().cpu(),
            width=self.size,
            out_size=(self.size, self.size),
            colour=self.colour.double().cpu(),
            mean=self.mean.double().cpu(),
            std=self.std.double().cpu(),
            dtype=torch.float64,
            backend="reference",
        )
        cotangent = self.states[0].grad[:1, :3].double().cpu()
        return torch.autograd.grad(view, spectrum, cotangent)[0]


# --- The paths. Each is a list of steps, one a set of buffers; a step leaves Adam's first moment in its state.


def fused(problem: Problem, precision: str) -> list[Callable[[], None]]:
    size = (problem.size, problem.size)

    def make(state: State) -> Callable[[], None]:
        buffers = Buffers.allocate(
            problem.batch, *size, size, colour=problem.colour, mean=problem.mean, std=problem.std,
            precision=precision, dtype=torch.float16, layout="nhwc4", device="cuda", backend="triton",
        )  # fmt: skip
        source = (problem.envelope, problem.views, problem.step)

        def step() -> None:
            synthesize_into(buffers, state.spectrum, *source)
            moments = (state.exp_avg, state.exp_avg_sq, problem.lr)
            synthesize_adjoint_adam_(buffers, state.grad, state.spectrum, *moments, *source)

        return step

    return [make(state) for state in problem.states]


def plain(problem: Problem, *, compiled: bool, capturable: bool) -> list[Callable[[], None]]:
    """PyTorch's own operations."""
    mean, std = problem.mean[:, None, None], problem.std[:, None, None]

    def synthesis(spectrum: Tensor) -> Tensor:
        scaled = spectrum * problem.envelope
        f = torch.fft.irfft2(torch.complex(scaled[:, :, 0], scaled[:, :, 1]), s=(problem.size,) * 2, norm="ortho")
        f = torch.roll(f, (-SHIFT[0], -SHIFT[1]), (2, 3))
        image = torch.sigmoid(0.25 * torch.einsum("cd,bdij->bcij", problem.colour, f))
        return ((image - mean) / std).to(torch.float16, memory_format=torch.channels_last)

    if compiled:
        synthesis = torch.compile(synthesis)

    def make(state: State) -> Callable[[], None]:
        parameter = state.spectrum.requires_grad_()
        optimizer = torch.optim.Adam([parameter], lr=LR, fused=capturable or compiled, capturable=capturable)
        cotangent = state.grad[:, :3].contiguous(memory_format=torch.channels_last)

        def step() -> None:
            synthesis(parameter).backward(cotangent)
            optimizer.step()
            state.exp_avg = optimizer.state[parameter]["exp_avg"]
            optimizer.zero_grad(set_to_none=True)

        return step

    return [make(state) for state in problem.states]


def replayed(steps: list[Callable[[], None]]) -> list[Callable[[], None]]:
    """Each step as a CUDA graph of its own; the steps must have run before."""
    replays = []
    for step in steps:
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            step()
        replays.append(graph.replay)
    return replays


PATHS = (
    "eager",
    "compiled",
    "graphed",
    "kernels fast",
    "kernels exact",
    "kernels fast graphed",
    "kernels exact graphed",
)


def build(name: str, problem: Problem) -> list[Callable[[], None]]:
    if name.startswith("kernels"):
        return fused(problem, name.split()[1])
    return plain(problem, compiled=name == "compiled", capturable=name == "graphed")


def gate(problem: Problem, truth: Tensor) -> float:
    """Relative error of the gradient that the first step left in Adam's first moment, (1 - beta1) times it."""
    gradient = problem.states[0].exp_avg[:1].detach().double().cpu() * 10
    return ((gradient - truth).norm() / truth.norm()).item()


# --- Timing.


def quantiles(steps: list[Callable[[], None]], seconds: float) -> tuple[float, float, float]:
    """20th, 50th and 80th percentile of a step's milliseconds on the device."""
    pairs = []
    for n in range(max(20, min(400, int(seconds / 1e-3)))):
        begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        begin.record()
        steps[n % len(steps)]()
        end.record()
        pairs.append((begin, end))
    torch.cuda.synchronize()
    times = statistics.quantiles((begin.elapsed_time(end) for begin, end in pairs), n=10)
    return times[1], times[4], times[7]


def copy_rate() -> float:
    """Bytes a second that a copy of 1 GB reads and writes."""
    source = torch.empty(1 << 28, device="cuda")
    target = torch.empty_like(source)
    target.copy_(source)

    def copy() -> None:
        target.copy_(source)

    return 2 * source.nbytes / (quantiles([copy], 0.05)[1] * 1e-3)


def warm_up(steps: list[Callable[[], None]]) -> None:
    """Run each step once on a side stream, as a later capture wants it."""
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for step in steps:
            step()
    torch.cuda.synchronize()


def each_kernel(size: int, batch: int, precision: str, seconds: float, rate: float) -> str:
    """The four kernels one by one, with the bytes that each has to move."""
    from fvfast_kernels import launch  # imports triton

    problem, bytes_an_image = Problem(size, batch), step_bytes(size, precision)
    geometry = Geometry(size, size, size, size)
    plan = launch.Plan(geometry, Epilogue(problem.colour, problem.mean, problem.std, 0.25), precision == "exact")
    launches: dict[str, list[Callable[[], None]]] = {name: [] for name in bytes_an_image}
    for state in problem.states:
        workspace = launch.Workspace.allocate(batch, geometry, precision, "cuda")
        source = launch.Source(state.spectrum, problem.envelope, problem.views, problem.step)
        adam = launch.Adam(state.exp_avg, state.exp_avg_sq, problem.lr)
        view = torch.empty_like(state.grad)
        forward = launch.forward_launches(source, view, workspace, plan)
        backward = launch.adjoint_launches(source, state.grad, state.spectrum, workspace, plan, adam)
        for one in (*forward, *backward):
            launches[one.kernel.__name__].append(one.run)
            one.run()
    rows = []
    for name, runs in launches.items():
        p50 = quantiles(runs, seconds)[1]
        moved = batch * bytes_an_image[name]
        share = moved / (p50 * 1e-3) / rate
        rows.append([f"{name} {precision}", str(size), str(batch), f"{p50:.4f}", f"{moved / 1e6:.1f}", f"{share:.0%}"])
    return table(("kernel", "px", "batch", "p50 ms", "MB", "of copy"), rows)


def measure(size: int, batch: int, seconds: float, rate: float) -> list[dict]:
    results = []
    for name in PATHS:
        problem = Problem(size, batch)
        truth = problem.truth()
        steps = build(name, problem)
        warm_up(steps[:1])
        error = gate(problem, truth)
        precision = "fast" if "fast" in name else "exact"
        warm_up(steps)
        if name.endswith("graphed"):
            steps = replayed(steps)
            warm_up(steps)
        p20, p50, p80 = quantiles(steps, seconds)
        moved = batch * sum(step_bytes(size, precision).values()) if name.startswith("kernels") else None
        results.append({
            "size": size, "batch": batch, "path": name, "p20_ms": p20, "p50_ms": p50, "p80_ms": p80,
            "error": error, "right": error < TOLERANCE[precision],
            "of_copy": moved / (p50 * 1e-3) / rate if moved else None,
        })  # fmt: skip
        del problem, steps
        torch.cuda.empty_cache()
    return results


def ratio(result: dict, base: dict) -> str:
    if not (result["right"] and base["right"]):
        return "wrong result"
    return f"{base['p50_ms'] / result['p50_ms']:.2f}x"


def show(results: list[dict]) -> str:
    by_path = {result["path"]: result for result in results}
    rows = []
    for result in results:
        times = [f"{result[key]:.3f}" for key in ("p20_ms", "p50_ms", "p80_ms")]
        share = "" if result["of_copy"] is None else f"{result['of_copy']:.0%}"
        ratios = [ratio(result, by_path[name]) for name in ("eager", "compiled", "graphed")]
        where = [result["path"], str(result["size"]), str(result["batch"])]
        rows.append([*where, *times, f"{result['error']:.1e}", share, *ratios])
    heads = (
        "path",
        "px",
        "batch",
        "p20 ms",
        "p50 ms",
        "p80 ms",
        "error",
        "of copy",
        "by eager",
        "by compiled",
        "by graphed",
    )
    return table(heads, rows)


def reference_times(size: int, batch: int) -> str:
    """The reference on the CPU, forward and backward: three kinds of views."""
    import time

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
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--size", type=int, nargs="+", default=[224, 512])
    parser.add_argument("--batch", type=int, nargs="+", default=[1, 16, 64, 256])
    parser.add_argument("--seconds", type=float, default=0.1, help="about how long to time each path")
    parser.add_argument("--json", type=Path, help="also write the figures here, with the machine's stamp")
    parser.add_argument("--reference", action="store_true", help="time the reference on the CPU")
    options = parser.parse_args()
    if options.reference:
        print(f"{stamp()}\n\n{reference_times(224, 8)}")
        return 0
    if not torch.cuda.is_available():
        print("bench.kernels compares CUDA kernels and needs an NVIDIA GPU: torch finds none here.", file=sys.stderr)
        return 2
    import triton

    machine = f"{stamp()}, triton {triton.__version__}, CUDA {torch.version.cuda}"
    rate = copy_rate()
    print(f"{machine}\ncopy: {rate / 1e9:.0f} GB/s")
    everything = []
    for size in options.size:
        for batch in options.batch:
            results = measure(size, batch, options.seconds, rate)
            print("\n" + show(results), flush=True)
            for precision in ("fast", "exact"):
                print("\n" + each_kernel(size, batch, precision, options.seconds, rate), flush=True)
            everything += results
    if options.json:
        text = json.dumps({"machine": machine, "copy_bytes_per_second": rate, "results": everything}, indent=1)
        options.json.write_text(text + "\n")
    return 0 if all(result["right"] for result in everything) else 1


if __name__ == "__main__":
    sys.exit(main())
