"""The kernels' way through the same steps as the reference path: how far the two come apart, and why.

    python -m bench.trajectories                on a GPU at 224 px; without one in Triton's interpreter at 32 px
    python -m bench.trajectories --json FILE    as a stage of bench.gpu_report: into this file, and nowhere else

Both paths begin with the same spectra, see the same views, and run in float32. Compared after 1, 4, 16, 64 and 256
steps: the spectra, the images, and the objectives on them. Any rounding grows on the way, since Adam divides every
gradient by its own size: so the reference path is also compared with itself, begun with a rounding in every number of
the start. Without --json, writes bench/results/trajectories.json and docs/quality.md's table.
"""

from __future__ import annotations

import os
import statistics
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

import fvfast
from bench import record
from bench.gpu.findings import Findings, needs_gpu, stage_parser
from bench.gpu.words import trajectories_table
from bench.report import redraw_all
from bench.steps import Case, backend, step_of_case
from fvfast.expressions import Context
from fvfast.step import Step

MARKS = (1, 4, 16, 64, 256)
COMMAND = "python -m bench.trajectories"
# A layer deep enough to have ReLUs before it, which make gradients jump.
ON_GPU = Case("efficientnet_lite0", "_blocks.10", 8, 224)
WITHOUT_WEIGHTS = Case("googlenet", "inception4a", 8, 224)  # where the bundled network is not installed
INTERPRETED = Case("efficientnet_lite0", "_blocks.4", 2, 32)
PATHS = ("kernels", "rounding")  # what is compared with the reference path
Keep = Callable[[dict[str, Any]], object]


@dataclass(frozen=True)
class Moment:
    """Where the images are after some steps: spectra [B, ...], canvases [B, 3, H, W], objectives on them [B]."""

    spectrum: Tensor
    canvas: Tensor
    objective: Tensor


def on_gpu(quick: bool = False, keep: Keep = lambda found: None) -> dict[str, Any]:
    """`measure` at 224 px on a GPU: three times 256 steps of eight images. quick: three times 16."""
    device, marks = torch.device("cuda"), MARKS[:3] if quick else MARKS
    try:
        fvfast.load()
    except ImportError:
        return measure(WITHOUT_WEIGHTS, device, "none", marks, keep)
    return measure(ON_GPU, device, marks=marks, keep=keep)


def measure(
    case: Case,
    device: torch.device,
    weights: str = "default",
    marks: tuple[int, ...] = MARKS,
    keep: Keep = lambda found: None,
) -> dict[str, Any]:
    """Rows for a path and a mark: relative L2 distances of spectra and canvases, relative differences of objectives.

    Medians over the images, and the largest. keep: shown what is known after each path.
    """
    found: dict[str, Any] = {"case": asdict(case), "weights": weights, "rows": [], "final objective": {}}
    precise = torch.backends.cudnn.allow_tf32
    torch.backends.cudnn.allow_tf32 = False
    try:
        truth = walk(case, device, "reference", weights, marks)
        found["final objective"]["reference"] = truth[marks[-1]].objective.mean().item()
        for path in PATHS:
            taken = "triton" if path == "kernels" else "reference"
            moments = walk(case, device, taken, weights, marks, roundings=path == "rounding")
            found["rows"] += [{"path": path, "step": mark, **_apart(moments[mark], truth[mark])} for mark in marks]
            found["final objective"][path] = moments[marks[-1]].objective.mean().item()
            keep(found)
    finally:
        torch.backends.cudnn.allow_tf32 = precise
    return found


def walk(
    case: Case, device: torch.device, path: str, weights: str, marks: tuple[int, ...], roundings: bool = False
) -> dict[int, Moment]:
    """The moments at the marks by a path. roundings: whether to begin an ulp beside the start."""
    found: dict[int, Moment] = {}
    with backend(path):
        step = step_of_case(case, device, torch.float32, weights, marks[-1])
        if roundings:
            perturb(step.parameter)
        for done in range(1, marks[-1] + 1):
            step()
            if done in marks:
                found[done] = _moment(step)
    return found


def perturb(parameter: Tensor) -> None:
    """Move every number to one of its two neighbours in float32, by the toss of a coin."""
    with torch.no_grad():
        up = torch.rand(parameter.shape, generator=torch.Generator().manual_seed(0)).to(parameter.device) < 0.5
        ends = torch.where(up, torch.inf, -torch.inf)
        parameter.copy_(torch.nextafter(parameter.detach(), ends))


@torch.no_grad()
def _moment(step: Step) -> Moment:
    # Canvases by one path, whatever path the steps took: what differs is then where the steps have led.
    with backend("reference"):
        canvas = step.image.canvas()
        frame = step.image.frame
        seen = (canvas - frame.mean[:, None, None]) / frame.std[:, None, None]
        value = step.objective(Context(step.tap(seen, step.names), layers=step.tap.layers))
    return Moment(step.parameter.detach().clone().cpu(), canvas.cpu(), value.float().cpu())


def _apart(one: Moment, truth: Moment) -> dict[str, float]:
    distances = {
        "spectrum": _relative(one.spectrum, truth.spectrum),
        "canvas": _relative(one.canvas, truth.canvas),
        "objective": ((one.objective - truth.objective).abs() / truth.objective.abs()).tolist(),
    }
    return {
        name: value
        for key, found in distances.items()
        for name, value in ((key, statistics.median(found)), (f"{key}, largest", max(found)))
    }


def _relative(one: Tensor, truth: Tensor) -> list[float]:
    """The L2 distance of each image over its norm."""
    return ((one - truth).flatten(1).norm(dim=1) / truth.flatten(1).norm(dim=1)).tolist()


# Words -----------------------------------------------------------------------------------------------------


def words(stored: dict[str, Any]) -> str:
    """What docs/quality.md shows of a stored measurement."""
    where = "on a GPU" if stored["kernels"] == "compiled" else "in Triton's interpreter on a CPU"
    return f"{trajectories_table(stored)}\n\n`{stored['command']}`, kernels {where}; {record.line(stored['machine'])}."


def stage(findings: Findings, quick: bool) -> int:
    """As a stage of the report; exit 1 where a number is none."""
    found = on_gpu(quick, lambda found: findings.say(**found))
    finite = all(value == value for row in found["rows"] for value in row.values())
    print(trajectories_table(found))
    findings.say(**found)
    findings.add({"case": "every number is finite", "passed": finite}, "checks")
    return findings.end()


def main() -> int:
    options = stage_parser(__doc__).parse_args()
    if options.json:
        return stage(Findings(options.json), options.quick) if needs_gpu("bench.trajectories --json") else 2
    gpu = torch.cuda.is_available()
    if not gpu:
        os.environ["TRITON_INTERPRET"] = "1"  # before anything imports triton
        torch.set_num_threads(1)
    found = on_gpu(options.quick) if gpu else measure(INTERPRETED, torch.device("cpu"))
    record.save("trajectories", COMMAND, found.pop("rows"), kernels="compiled" if gpu else "interpreted", **found)
    redraw_all("trajectories")
    return 0


if __name__ == "__main__":
    sys.exit(main())
