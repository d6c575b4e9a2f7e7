"""The fused kernels one by one, with the launch table's tiles and with others: errors first, then times."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
from fvfast_kernels import launch
from fvfast_kernels.blocks import Tile

from bench.alternatives import candidates
from bench.gpu.findings import Findings
from bench.gpu.problem import TOLERANCE, VIEW_TOLERANCE, Problem, State, Truth, relative, step_bytes
from bench.timing import quantiles, queued, repeated

ROUNDS = 4  # over the sets of inputs, in one graph


def trials(problem: Problem, precision: str) -> Iterator[tuple[str, Tile, bool]]:
    """(kernel, tile, whether it is the table's): the table's first, since they matter most."""
    tried = candidates(problem.geometry, precision == "exact")
    yield from ((name, tiles[0], True) for name, tiles in tried.items())
    yield from ((name, tile, False) for name, tiles in tried.items() for tile in tiles[1:])


def without_tiles(problem: Problem, precision: str) -> list[str]:
    """The kernels of a step that have no tile to choose."""
    tried = candidates(problem.geometry, precision == "exact")
    names = [one.kernel.__name__ for one, _ in _launches(problem, precision, {}, problem.states[0])]
    return [name for name in names if name not in tried]


def measure_tiles(problem: Problem, truth: Truth, rate: float, seconds: float, findings: Findings) -> None:
    """A row for each kernel, precision and tile, into the findings' list `tiles`. rate: a copy's bytes a second."""
    for precision in ("fast", "exact"):
        for name, tile, own in trials(problem, precision):
            words = " ".join(f"{key} {value}" for key, value in tile.options().items())
            case = f"{name} {precision}, {problem.size} px, batch {problem.batch}, {words}"
            with findings.case(case, "tiles") as row:
                row |= {"kernel": name, "precision": precision, "size": problem.size, "batch": problem.batch}
                row |= {"tile": tile.options(), "table": own}
                row |= gate(problem, precision, {name: tile}, truth)
                row |= timed(problem, precision, name, {name: tile}, rate, seconds)
                row["words"] = f"{'' if row['passed'] else 'WRONG, '}{row['p50_ms']:.4f} ms, {row['of_copy']:.0%}"
        for name in without_tiles(problem, precision):
            with findings.case(f"{name} {precision}, {problem.size} px, batch {problem.batch}", "tiles") as row:
                row |= {"kernel": name, "precision": precision, "size": problem.size, "batch": problem.batch}
                row |= {"tile": {}, "table": True, **gate(problem, precision, {}, truth)}
                row |= timed(problem, precision, name, {}, rate, seconds)
                row["words"] = f"{row['p50_ms']:.4f} ms"


def gate(problem: Problem, precision: str, tiles: dict[str, Tile], truth: Truth) -> dict[str, Any]:
    """The errors of one step from the start, by kernels with these tiles, and whether they are within bounds."""
    launches = list(_launches(problem, precision, tiles, problem.rewind()))
    for one, _ in launches:
        one.run()
    torch.cuda.synchronize()
    view = launches[0][1]
    errors = {"view": relative(view[:1, :3], truth.view), "gradient": problem.gradient_error(truth)}
    passed = errors["view"] < VIEW_TOLERANCE and errors["gradient"] < TOLERANCE[precision]
    return {"errors": errors, "passed": passed}


def timed(
    problem: Problem, precision: str, name: str, tiles: dict[str, Tile], rate: float, seconds: float
) -> dict[str, Any]:
    """Milliseconds of one launch, from a graph of many; the bytes that it has to move, and their share of a copy's.

    Of a kernel whose bytes nobody has counted, neither is known.
    """
    runs: list[Callable[[], None]] = []
    for state in problem.states:
        for one, _ in _launches(problem, precision, tiles, state):
            if one.kernel.__name__ == name:
                runs.append(one.run)
            one.run()  # so that each finds what the one before it leaves
    times = ROUNDS * len(runs)
    replay = repeated(runs, times)
    ms = {f"{key}_ms": value / times for key, value in quantiles(queued([replay], seconds)).items()}
    bytes_an_image = step_bytes(problem.size, precision).get(name)
    if bytes_an_image is None:
        return {**ms, "bytes": None, "of_copy": None}
    moved = problem.batch * bytes_an_image
    return {**ms, "bytes": moved, "of_copy": moved / (ms["p50_ms"] * 1e-3) / rate}


def _launches(problem: Problem, precision: str, tiles: dict[str, Tile], state: State):
    """(launch, view) of a step on a set of inputs, in order."""
    plan = launch.Plan(problem.geometry, problem.epilogue, precision == "exact", tiles)
    workspace = launch.Workspace.allocate(problem.batch, problem.geometry, precision, "cuda")
    source = launch.Source(state.spectrum, problem.envelope, problem.views, problem.step)
    adam = launch.Adam(state.exp_avg, state.exp_avg_sq, problem.lr)
    view = torch.empty_like(state.grad)
    for one in launch.forward_launches(source, view, workspace, plan):
        yield one, view
    for one in launch.adjoint_launches(source, state.grad, state.spectrum, workspace, plan, adam):
        yield one, view
