"""Stage `smoke`: every public path of a render, small, on the device; and its graph against its eager steps.

    python -m bench.gpu.smoke --json FILE

A path passes where it was captured as a CUDA graph, gives finite images, is near its own eager steps of the same
seed, and where its first step's objective is the CPU's. One line each.
"""

from __future__ import annotations

import sys
import time
from typing import Any

import torch
from torch import Tensor

import fvfast
from bench.gpu import graphs, small_paths
from bench.gpu.findings import Findings, needs_gpu, stage_parser
from bench.gpu.small_paths import PATHS, Path

# A graph replays the very kernels of the eager steps. Where a library picks others, rounding to 8 bits (bfloat16)
# and Adam drive them apart; a wrong pointer or a missed copy changes most of the image.
GRAPH_BOUND = 0.1
# bfloat16 keeps 8 bits: the first objective of this network in it is within 2 % of float32 on a CPU.
FIRST_BOUND = 5e-2
FIRST = "first objective from the CPU's"
QUICK = ("channels", "channels, float32", "recipe lucent", "image phase", "alpha", "dead at the start")


def check(path: Path, row: dict[str, Any]) -> None:
    """Fill in a row: what a path did on the device, how far from eager steps and from the CPU."""
    target, options = path
    said: list[str] = []
    started = time.perf_counter()
    result = small_paths.render(target, device="cuda", notify=said.append, **options)
    row["seconds_rendered"] = round(time.perf_counter() - started, 3)
    with graphs.refused():
        eager = small_paths.render(target, device="cuda", **options)
    cpu = small_paths.render(target, device="cpu", **{**options, "dtype": "float32"})
    row |= {
        "backend": result.path,
        "dtype": result.dtype,
        "captured": not any("cannot be captured" in sentence for sentence in said) and result.stages["capture"] > 0,
        "said": said,
        "finite": bool(result.images.isfinite().all() and result.history[:, 0].isfinite().all()),
        "equal to eager": bool(torch.equal(result.images, eager.images)),
        "from eager": relative(result.images, eager.images),
        FIRST: first_apart(result, cpu),
    }
    row["passed"] = row["captured"] and row["finite"] and row["from eager"] <= GRAPH_BOUND and row[FIRST] <= FIRST_BOUND
    row["words"] = in_words(row)


def relative(one: Tensor, other: Tensor) -> float:
    """The L2 distance of images from others over the others' norm."""
    return float((one - other).norm() / other.norm())


def first_apart(one: fvfast.Render, other: fvfast.Render) -> float:
    """How far apart the first step's objectives are, over the largest that any step had."""
    scale = other.history[other.history.isfinite()].abs().max().clamp(min=1e-12)
    return float((one.history[:, 0] - other.history[:, 0]).abs().max() / scale)


def in_words(row: dict[str, Any]) -> str:
    """One line on a path."""
    graph = "captured" if row["captured"] else f"NOT CAPTURED ({'; '.join(row['said']) or 'nothing was said'})"
    apart = "equal to eager steps" if row["equal to eager"] else f"{row['from eager']:.1e} from eager steps"
    first = f"first objective {row[FIRST]:.1e} from the CPU's"
    end = "ok" if row["passed"] else "FAILED"
    return f"{end}: {graph}, {apart}, {first}{'' if row['finite'] else ', NOT FINITE'}, {row['backend']}"


def dream(row: dict[str, Any]) -> None:
    """A dream over a small photograph, which has no graph of its own to compare with."""
    photo = torch.rand(3, 96, 96, generator=torch.Generator().manual_seed(0))
    model = fvfast.Model("net", "none", small_paths.Net(), size=small_paths.SIZE)
    result = fvfast.dream(photo, model, "out", octaves=2, steps=3, device="cuda")
    row["passed"] = bool(torch.as_tensor(result.image).isfinite().all())
    row["words"] = "ok" if row["passed"] else "FAILED: NOT FINITE"


def main() -> int:
    options = stage_parser(__doc__).parse_args()
    if not needs_gpu("bench.gpu.smoke"):
        return 2
    findings = Findings(options.json, bounds={"from eager": GRAPH_BOUND, "first objective": FIRST_BOUND})
    for name in QUICK if options.quick else PATHS:
        with findings.case(name) as row:
            check(PATHS[name], row)
    with findings.case("dream") as row:
        dream(row)
    return findings.end()


if __name__ == "__main__":
    sys.exit(main())
