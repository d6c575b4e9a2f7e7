"""The ways to do a problem's step: PyTorch eager, compiled and graphed, and the fused kernels.

    eager     as a user would write it: irfft2, roll, einsum, sigmoid, autograd, torch.optim.Adam
    compiled  the same under torch.compile, with the fused Adam
    graphed   eager with the fused Adam, replayed as a CUDA graph
    kernels   the fused kernels, launched one by one; "kernels graphed": replayed as a CUDA graph

Each is a list of steps, one a set of inputs; a step leaves Adam's first moment in its state.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from fvfast_kernels import Buffers, synthesize_adjoint_adam_, synthesize_into
from torch import Tensor

from bench.gpu.problem import LR, SHIFT, VIEW, Problem, State

Steps = list[Callable[[], None]]
# What says most first; what has to be compiled for many seconds last.
WAYS = (
    "kernels fast graphed",
    "graphed",
    "eager",
    "kernels exact graphed",
    "kernels fast",
    "kernels exact",
    "compiled",
)


def precision_of(way: str) -> str:
    """The precision that a way promises, as `TOLERANCE` names it."""
    return "fast" if "fast" in way else "exact"


def build(way: str, problem: Problem) -> Steps:
    """The steps of a way, ready to be timed. The first set has taken one step from its start."""
    problem.rewind()
    steps = _fused(problem, precision_of(way)) if way.startswith("kernels") else _plain(problem, way)
    _warm_up(steps[:1])
    return steps


def finish(way: str, steps: Steps) -> Steps:
    """The steps after their first results were looked at: all of them warm, and graphed if that is the way."""
    _warm_up(steps)
    if not way.endswith("graphed"):
        return steps
    replays: Steps = []
    for step in steps:
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            step()
        replays.append(graph.replay)
    _warm_up(replays)
    return replays


def _fused(problem: Problem, precision: str) -> Steps:
    size = (problem.size, problem.size)

    def make(state: State) -> Callable[[], None]:
        buffers = Buffers.allocate(
            problem.batch, *size, size, colour=problem.colour, mean=problem.mean, std=problem.std,
            precision=precision, dtype=VIEW, layout="nhwc4", device="cuda", backend="triton",
        )  # fmt: skip
        source = (problem.envelope, problem.views, problem.step)

        def step() -> None:
            synthesize_into(buffers, state.spectrum, *source)
            moments = (state.exp_avg, state.exp_avg_sq, problem.lr)
            synthesize_adjoint_adam_(buffers, state.grad, state.spectrum, *moments, *source)

        return step

    return [make(state) for state in problem.states]


def _plain(problem: Problem, way: str) -> Steps:
    """PyTorch's own operations."""
    mean, std = problem.mean[:, None, None], problem.std[:, None, None]

    def synthesis(spectrum: Tensor) -> Tensor:
        scaled = spectrum * problem.envelope
        f = torch.fft.irfft2(torch.complex(scaled[:, :, 0], scaled[:, :, 1]), s=(problem.size,) * 2, norm="ortho")
        f = torch.roll(f, (-SHIFT[0], -SHIFT[1]), (2, 3))
        image = torch.sigmoid(0.25 * torch.einsum("cd,bdij->bcij", problem.colour, f))
        return ((image - mean) / std).to(VIEW, memory_format=torch.channels_last)

    if way == "compiled":
        torch._dynamo.reset()  # or a second shape would be compiled for any
        synthesis = torch.compile(synthesis, dynamic=False)

    def make(state: State) -> Callable[[], None]:
        parameter = state.spectrum.detach().requires_grad_()
        optimizer = torch.optim.Adam([parameter], lr=LR, fused=way != "eager", capturable=way == "graphed")
        cotangent = state.grad[:, :3].contiguous(memory_format=torch.channels_last)

        def step() -> None:
            synthesis(parameter).backward(cotangent)
            optimizer.step()
            state.exp_avg = optimizer.state[parameter]["exp_avg"]
            optimizer.zero_grad(set_to_none=True)

        return step

    return [make(state) for state in problem.states]


def _warm_up(steps: Steps) -> None:
    """Run each step once on a side stream, as a later capture wants it."""
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for step in steps:
            step()
    torch.cuda.synchronize()
