"""Features a second of one atlas against separate renders in one process: `python -m bench.atlas`.

`--write` puts the figures into bench/results/atlas.json and docs/atlas.md.

Half of the separate renders come before the atlas and half after it, so that a machine that slows down meanwhile does
not favour either. Both have the model loaded once, and both write every image. The atlas's images are compared with
the separate ones to the last byte.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
import time
from pathlib import Path
from typing import Any

import PIL.Image

import fvfast
from bench import record
from bench.report import redraw_all
from bench.tables import table
from fvfast.atlases import atlas
from fvfast.store import Store


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--layer", default="_blocks.7")
    parser.add_argument("--channels", type=int, default=64)
    parser.add_argument("--size", type=int, default=128)
    parser.add_argument("--steps", type=int, default=64)
    parser.add_argument("--write", action="store_true", help="into bench/results/ and docs/atlas.md")
    options = parser.parse_args()
    model = fvfast.load()
    how = {"size": options.size, "steps": options.steps}
    fvfast.render(model, f"{options.layer}:0", size=options.size, steps=2)  # warm-up
    with tempfile.TemporaryDirectory() as folder:

        def separately(first: int, last: int) -> float:
            started = time.perf_counter()
            for channel in range(first, last):
                fvfast.render(model, f"{options.layer}:{channel}", **how).save(Path(folder) / "separate")
            return time.perf_counter() - started

        half = options.channels // 2
        before = separately(0, half)
        started = time.perf_counter()
        result = atlas(model, options.layer, channels=f"0-{options.channels - 1}", store=Path(folder) / "kept", **how)
        together = time.perf_counter() - started
        after = separately(half, options.channels)
        _compare(Path(folder), result.rendered)
    apart = before + after
    report = {
        "layer": options.layer,
        "channels": options.channels,
        **how,
        "processors": len(os.sched_getaffinity(0)),
        "load": os.getloadavg()[0],
        "separate_s": [round(before, 1), round(after, 1)],
        "atlas_s": round(together, 1),
        "separate_features_per_s": round(options.channels / apart, 3),
        "atlas_features_per_s": round(options.channels / together, 3),
        "ratio": round(apart / together, 2),
    }
    print(json.dumps(report, indent=2))
    if options.write:
        publish(report)


def publish(report: dict[str, Any]) -> None:
    """Keep a report, and show it in the documentation."""
    record.save("atlas", "python -m bench.atlas --write", [report])
    redraw_all("atlas")


def words(stored: dict[str, Any]) -> str:
    """What docs/atlas.md shows of a stored report."""
    (report,) = stored["rows"]
    rows = [
        ["separate renders", f"{sum(report['separate_s']):.1f}", f"{report['separate_features_per_s']:.2f}", "1"],
        ["one atlas", f"{report['atlas_s']:.1f}", f"{report['atlas_features_per_s']:.2f}", f"{report['ratio']:.2f}"],
    ]
    return (
        f"{report['channels']} channels of EfficientNet-Lite0's `{report['layer']}`, {report['size']} px, "
        f"{report['steps']} steps, in one process with the model loaded once, on {report['processors']} cores that "
        f"other work shared (load {report['load']:.1f}):\n\n"
        + table(["way", "s", "features/s", "ratio"], rows)
        + f"\n\nMeasured on {record.line(stored['machine'])}."
    )


def _compare(folder: Path, rendered: int) -> None:
    """See that both made the same pictures: a speed that changes the result is none."""
    same = 0
    with Store(folder / "kept") as store:
        for entry in store.each():
            name = f"{entry.model}-{entry.layer}-{entry.channel}.png"
            with PIL.Image.open(folder / "separate" / name) as a, PIL.Image.open(folder / "kept" / entry.image) as b:
                same += a.tobytes() == b.tobytes()
    if same != rendered:
        raise SystemExit(f"only {same} of {rendered} images are the same")


if __name__ == "__main__":
    main()
