"""Stage `quality`: whether what is fast ends where the reference ends, over 32 channels.

    python -m bench.gpu.quality --json FILE

The same seeds three times: by the reference path in float32, by the exact kernels in float32, and as a user gets it,
by the fast kernels in bfloat16. Final objectives are those of the unmodified network on the canvas, in float32.
"""

from __future__ import annotations

import statistics
import sys
from typing import Any

import torch

import fvfast
from bench.gpu.findings import Findings, needs_gpu, stage_parser
from bench.steps import backend

STEPS = 128
# The median change of the final objective; single images move more, since any rounding leads Adam elsewhere.
BOUND = 0.02
WAYS = {"fast": ("auto", "bfloat16"), "exact": ("auto", "float32")}


def subject() -> tuple[str, str, str]:
    """(model, weights, targets): the bundled network, or GoogLeNet with random weights where that is not there."""
    try:
        fvfast.load()
    except ImportError:
        return "googlenet", "none", "inception4a:0-31"
    return "efficientnet_lite0", "default", "_blocks.10:0-31"


def compare(result: fvfast.Render, truth: fvfast.Render) -> dict[str, Any]:
    """How final objectives changed, relative to the reference's."""
    changes = ((result.objective - truth.objective) / truth.objective.abs().clamp(min=1e-12)).tolist()
    return {
        "channels": len(changes),
        "seconds_rendering": round(result.seconds, 2),
        "reference's seconds": round(truth.seconds, 2),
        "median change": statistics.median(changes),
        "median of its size": statistics.median(map(abs, changes)),
        "largest": max(changes, key=abs),
    }


def main() -> int:
    options = stage_parser(__doc__).parse_args()
    if not needs_gpu("bench.gpu.quality"):
        return 2
    torch.backends.cudnn.allow_tf32 = False
    model, weights, target = subject()
    steps = 16 if options.quick else STEPS
    findings = Findings(options.json, model=f"{model}, weights {weights}", steps=steps, bound=BOUND)
    given: dict[str, Any] = {"weights": weights, "size": 224, "steps": steps, "device": "cuda", "batch": 32}
    with backend("reference"):
        truth = fvfast.render(model, target, dtype="float32", **given)
    for name, (path, dtype) in WAYS.items():
        with findings.case(name) as row:
            with backend(path):
                result = fvfast.render(model, target, dtype=dtype, **given)
            row |= compare(result, truth)
            row["passed"] = abs(row["median change"]) <= BOUND
            row["words"] = f"median change {row['median change']:+.2%}"
    return findings.end()


if __name__ == "__main__":
    sys.exit(main())
