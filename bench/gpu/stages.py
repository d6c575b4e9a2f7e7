"""The stages of the report: which there are, in their order, which of them to run, and how long each may take."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from fvfast.errors import FvfastError, did_you_mean


@dataclass(frozen=True)
class Stage:
    """A command `python -m module --json FILE [--quick]`.

    weight: its share of the time. least: seconds below which it is not worth beginning. worth: 1 is what is wanted
    most where there is not time for all.
    """

    name: str
    module: str
    weight: float
    least: float
    worth: int
    about: str


STAGES = (
    Stage(
        "compile", "bench.gpu.compilation", 50, 12, 1, "every kernel that is needed later, on all processors at once"
    ),
    Stage("smoke", "bench.gpu.smoke", 40, 12, 1, "every public path of a render, its graph against its eager steps"),
    Stage("tests", "bench.gpu.tests", 40, 15, 2, "the tests marked `gpu`"),
    Stage("sanitizer", "bench.gpu.sanitizer", 25, 20, 8, "compute-sanitizer on every kernel at a small size"),
    Stage("kernels", "bench.kernels", 40, 12, 5, "errors, times, bytes, a copy's rate, other tiles"),
    Stage("steps", "bench.gpu.steps", 60, 20, 2, "whole steps against eager, compiled, graphed and lucent-style ones"),
    Stage("network", "bench.network", 25, 15, 6, "the network's share, and what makes it faster"),
    Stage("atlas", "bench.gpu.atlas", 30, 12, 3, "channels of GoogLeNet a minute"),
    Stage("quality", "bench.gpu.quality", 15, 8, 4, "final objectives of half precision, exact kernels and reference"),
    Stage("trajectories", "bench.trajectories", 10, 8, 7, "256 steps of the kernels beside the reference's"),
)
NAMES = tuple(stage.name for stage in STAGES)


def chosen(only: Sequence[str], skip: Sequence[str]) -> list[Stage]:
    """The stages to run, in their order. Raises FvfastError for a name that is none."""
    for name in (*only, *skip):
        if name not in NAMES:
            near = did_you_mean(name, NAMES)
            raise FvfastError(f"unknown stage {name!r}{near}; there are {', '.join(NAMES)}")
    left = [stage for stage in STAGES if (not only or stage.name in only) and stage.name not in skip]
    if not left:
        raise FvfastError("no stage is left to run: --skip names all that --only does")
    return left


def box(stages: Sequence[Stage], seconds: float) -> float:
    """How long the first of the stages still to run may take, of the seconds left for all; 0 for not at all.

    Time goes by weight, and none gets less than its least: where there is not enough for all, those of least worth
    go without. What a stage leaves over is shared by those after it, since this is asked again before each.
    """
    first, kept, need = stages[0], [], 0.0
    for stage in sorted(stages, key=lambda stage: stage.worth):
        if need + stage.least <= seconds:
            kept.append(stage)
            need += stage.least
    if first not in kept:
        return 0.0
    share = seconds * first.weight / sum(stage.weight for stage in kept)
    return min(max(share, first.least), seconds - (need - first.least))
