"""How to spread images over a CPU: one large batch, one image after the other, or several side by side.

Each way renders the same eight images in a process of its own, interleaved over several rounds; the table shows the
median of milliseconds a step and image. Writes docs/performance.md's table.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys

import torch

from bench.report import keep

TARGET, IMAGES, STEPS, ROUNDS = "_blocks.10:3", 8, 8, 3

CODE = """
import fvfast
options = dict(target={target!r}, copies={images}, steps={steps}, batch={batch}, threads={threads})
fvfast.render(**options)
result = fvfast.render(**options)
print(result.seconds / result.steps * 1000)
"""


def milliseconds(batch: int, threads: int, keep_blocks: bool) -> float:
    """Per step and image, in a process of its own. keep_blocks: whether glibc may be told to keep freed memory."""
    environment = dict(os.environ)
    environment.pop("MALLOC_MMAP_THRESHOLD_", None)
    if not keep_blocks:
        environment["MALLOC_MMAP_THRESHOLD_"] = "131072"  # glibc's default; fvfast leaves a user's setting alone
    code = CODE.format(target=TARGET, images=IMAGES, steps=STEPS, batch=batch, threads=threads)
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    return float(done.stdout.split()[-1])


def main() -> None:
    cores = torch.get_num_threads()
    ways = {
        f"one batch of {IMAGES}, {cores} threads, glibc's defaults": (IMAGES, cores, False),
        f"one batch of {IMAGES}, {cores} threads": (IMAGES, cores, True),
        f"one image after the other, {cores} threads": (1, cores, True),
        f"{cores} batches of {IMAGES // cores} side by side, 1 thread each": (IMAGES // cores, 1, True),
        f"{cores} images side by side, 1 thread each (the default)": (1, 1, True),
    }
    times: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(ROUNDS):
        for name, way in ways.items():
            times[name].append(milliseconds(*way))
    rows = [[name, f"{statistics.median(t):.1f}", f"{min(t):.1f}-{max(t):.1f}"] for name, t in times.items()]
    keep("batching", "python -m bench.batching", ["way", "ms a step and image", "range"], rows)


if __name__ == "__main__":
    main()
