"""Stage `atlas`: how many channels of GoogLeNet (InceptionV1) are rendered in a minute, by the size of batches.

    python -m bench.gpu.atlas --json FILE

512 channels spread over the nine inception blocks; fewer where the time would not do, which the row says. A first,
small render is there to tell, and to load every kernel.
"""

from __future__ import annotations

import sys
from typing import Any

import fvfast
from bench.gpu import graphs
from bench.gpu.findings import Findings, needs_gpu, seconds_left, stage_parser
from fvfast.tracing import trace

BLOCKS = ("3a", "3b", "4a", "4b", "4c", "4d", "4e", "5a", "5b")
CHANNELS, STEPS, SIZE = 512, 256, 224
BATCHES = (64, 256, 1)  # what says most first
SHARE = 0.6  # of the time left that the next batch size may take
ALONE_S = 120.0


def blocks() -> dict[str, int]:
    """The inception blocks' names and how many channels each puts out."""
    module = fvfast.load("googlenet", "none").module.eval()
    layers = trace(module, SIZE)
    return {f"inception{block}": layers[f"inception{block}"].channels for block in BLOCKS}


def spread(channels: dict[str, int], count: int) -> list[str]:
    """`count` channels as targets, spread evenly over the layers, and over each layer's channels."""
    targets: list[str] = []
    for number, (layer, total) in enumerate(channels.items()):
        share = count * (number + 1) // len(channels) - count * number // len(channels)
        if share:
            targets.append(f"{layer}:" + ",".join(str(i * total // share) for i in range(share)))
    return targets


def render(channels: dict[str, int], count: int, steps: int, batch: int) -> dict[str, Any]:
    """What rendering so many channels came to."""
    with graphs.counted() as captures:
        result = fvfast.render(
            "googlenet", spread(channels, count), weights="none", size=SIZE, steps=steps, batch=batch, device="cuda"
        )
    each, total = result.seconds / len(result), sum(channels.values())
    return {
        "batch": batch,
        "channels": len(result),
        "steps": steps,
        "seconds_rendering": round(result.seconds, 3),
        "channels a minute": 60 / each,
        "all channels": total,
        "seconds for all, extrapolated": each * total,
        "batches": -(-len(result) // batch),
        "captures": captures[0],
        "stages": {name: round(seconds, 3) for name, seconds in result.stages.items()},
        "path": result.path,
    }


def fitting(batch: int, per_image_step: float, per_batch: float, seconds: float, steps: int) -> int:
    """How many channels, whole batches of at most CHANNELS, so many seconds are enough for.

    per_image_step: seconds; per_batch: seconds of warm-up and capture, which every batch may have to pay.
    """
    batches = int(seconds / (per_batch + batch * steps * per_image_step))
    return max(batch, min(CHANNELS, batches * batch) // batch * batch)


def main() -> int:
    options = stage_parser(__doc__).parse_args()
    if not needs_gpu("bench.gpu.atlas"):
        return 2
    findings = Findings(options.json, model="googlenet, random weights", size=SIZE)
    channels = blocks()
    steps = 32 if options.quick else STEPS
    for batch in BATCHES[:1] if options.quick else BATCHES:
        with findings.case(f"batch {batch}") as row:
            first = render(channels, batch, 16, batch)
            stages = first["stages"]
            overhead = stages.get("warm-up", 0.0) + stages.get("capture", 0.0)
            loop = max(stages.get("loop", first["seconds_rendering"]), 1e-3)
            left = min(ALONE_S, seconds_left()) * SHARE
            count = fitting(batch, loop / (16 * batch), overhead, left, steps)
            row |= render(channels, count, steps, batch)
            row["words"] = f"{row['channels a minute']:.0f} channels a minute, {row['captures']} captures"
    return findings.end()


if __name__ == "__main__":
    sys.exit(main())
