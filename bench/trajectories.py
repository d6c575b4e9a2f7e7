"""The kernels' way through the same steps as the reference path: how far the two come apart, and why.

    python -m bench.trajectories           on a GPU at 224 px; without one in Triton's interpreter at 32 px

Both paths begin with the same spectra, see the same views, and run in float32. Compared after 1, 4, 16, 64 and 256
steps: the spectra, the images, and the objectives on them. Any rounding grows on the way, since Adam divides every
gradient by its own size: so the reference path is also compared with itself, begun with a rounding in every number of
the start. Writes bench/results/trajectories.json and docs/quality.md's table.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

import fvfast
from bench import record
from bench.report import redraw_all, table
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


@dataclass(frozen=True)
class Moment:
    """Where the images are after some steps: spectra [B, ...], canvases [B, 3, H, W], objectives on them [B]."""

    spectrum: Tensor
    canvas: Tensor
    objective: Tensor


def on_gpu(quick: bool = False) -> dict[str, Any]:
    """`measure` at 224 px on a GPU: three times 256 steps of eight images. quick: three times 16."""
    device, marks = torch.device("cuda"), MARKS[:3] if quick else MARKS
    try:
        fvfast.load()
    except ImportError:
        return measure(WITHOUT_WEIGHTS, device, "none", marks)
    return measure(ON_GPU, device, marks=marks)


def measure(
    case: Case, device: torch.device, weights: str = "default", marks: tuple[int, ...] = MARKS
) -> dict[str, Any]:
    """Rows for a path and a mark: relative L2 distances of spectra and canvases, relative differences of objectives.

    Medians over the images, and the largest.
    """
    precise = torch.backends.cudnn.allow_tf32
    torch.backends.cudnn.allow_tf32 = False
    try:
        truth = walk(case, device, "reference", weights, marks)
        others = {
            "kernels": walk(case, device, "triton", weights, marks),
            "rounding": walk(case, device, "reference", weights, marks, roundings=True),
        }
    finally:
        torch.backends.cudnn.allow_tf32 = precise
    rows = [
        {"path": path, "step": mark, **_apart(moments[mark], truth[mark])}
        for path, moments in others.items()
        for mark in marks
    ]
    ends = {
        name: moments[marks[-1]].objective.mean().item() for name, moments in {"reference": truth, **others}.items()
    }
    return {"case": asdict(case), "weights": weights, "rows": rows, "final objective": ends}


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
    return f"{summary(stored)}\n\n`{stored['command']}`, kernels {where}; {record.line(stored['machine'])}."


def summary(found: dict[str, Any]) -> str:
    """The table of `measure`, and what the final objectives are."""
    case, rows, ends = found["case"], found["rows"], found["final objective"]
    header = ["step", *(f"{path}: {name}" for path in PATHS for name in ("spectrum", "canvas", "objective"))]
    lines = []
    for mark in dict.fromkeys(row["step"] for row in rows):
        at = {row["path"]: row for row in rows if row["step"] == mark}
        lines.append([f"{mark}", *(f"{at[p][k]:.1e}" for p in PATHS for k in ("spectrum", "canvas", "objective"))])
    last = max(row["step"] for row in rows)
    objectives = ", ".join(f"{ends[name]:.4f} ({name})" for name in ends)
    return (
        f"{table(header, lines)}\n\n*kernels*: the kernels against the reference path; *rounding*: the reference path, "
        "begun an ulp beside its start, against itself. Relative L2 distances of spectra and canvases, relative "
        f"differences of the objective. Medians over {case['batch']} images of {case['size']} px, channels of "
        f"`{case['layer']}` of {case['model']}. Mean objective after {last} steps: {objectives}."
    )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.parse_args()
    gpu = torch.cuda.is_available()
    if not gpu:
        os.environ["TRITON_INTERPRET"] = "1"  # before anything imports triton
        torch.set_num_threads(1)
    found = on_gpu() if gpu else measure(INTERPRETED, torch.device("cpu"))
    record.save("trajectories", COMMAND, found.pop("rows"), kernels="compiled" if gpu else "interpreted", **found)
    redraw_all("trajectories")
    return 0


if __name__ == "__main__":
    sys.exit(main())
