"""The same script under lucent and under `fvfast.compat.lucent`: seconds a step, one process each, one after the other.

    python -m bench.lucent_dropin --lucent PYTHON [--steps 20] [--threads 2]

PYTHON: an interpreter that has torch-lucent 0.1.8 (with kornia 0.4.1). The script is run as it is under both, but for
its import; the first steps, which warm up, do not count. Writes bench/results/lucent_dropin.json and the table in
docs/lucent.md.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
from typing import Any

from bench import record
from bench.report import ROOT, redraw_all
from bench.tables import table

WARM = 5
ROUNDS = 3

# What `thresholds` are for: after each, lucent and fvfast both make an image, at which the clock is read.
SCRIPT = """
import json, sys, time, types
import torch
from torchvision import models

torch.set_num_threads(THREADS)
if PACKAGE == "lucent":  # it imports IPython only to show images
    for name in ("IPython", "IPython.display"):
        sys.modules.setdefault(name, types.ModuleType(name))
OPTVIS

torch.manual_seed(0)
model = getattr(models, NETWORK)(weights=None).eval()
ticks = []
made = render.tensor_to_img_array
def noted(tensor):
    ticks.append(time.perf_counter())
    return made(tensor)
render.tensor_to_img_array = noted
steps = (WARM, WARM + STEPS)
render.render_vis(model, TARGET, lambda: param.image(SIZE), thresholds=steps, progress=False, show_image=False)
print(json.dumps((ticks[-1] - ticks[0]) / STEPS))
"""

CASES = (
    ("resnet18", "layer3:7", 128),
    ("mobilenet_v2", "features_8:3", 224),
)


def seconds(python: str, package: str, case: tuple[str, str, int], steps: int, threads: int) -> float:
    """Seconds a step of a case, in a process of its own."""
    network, target, size = case
    script = SCRIPT.replace("OPTVIS", f"from {package}.optvis import param, render")
    values = {"PACKAGE": package, "NETWORK": network, "TARGET": target}
    settings = "\n".join(f"{name} = {value!r}" for name, value in values.items())
    settings += f"\nSIZE, STEPS, WARM, THREADS = {size}, {steps}, {WARM}, {threads}\n"
    done = subprocess.run([python, "-c", settings + script], cwd=ROOT, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"{package}: {done.stderr.strip().splitlines()[-1]}")
    return float(json.loads(done.stdout.strip().splitlines()[-1]))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--lucent", required=True, metavar="PYTHON")
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--threads", type=int, default=record.cores())
    chosen = parser.parse_args()
    rows = []
    for case in CASES:
        pairs = [
            (
                seconds(chosen.lucent, "lucent", case, chosen.steps, chosen.threads),
                seconds(sys.executable, "fvfast.compat.lucent", case, chosen.steps, chosen.threads),
            )
            for _ in range(ROUNDS)
        ]
        theirs, ours = (statistics.median(column) for column in zip(*pairs, strict=True))
        ratios = sorted(a / b for a, b in pairs)
        rows.append(
            {
                "network": case[0],
                "target": case[1],
                "size": case[2],
                "lucent_s": theirs,
                "fvfast_s": ours,
                "ratio": ratios[len(ratios) // 2],
                "ratios": ratios,
            }
        )
        print(rows[-1], flush=True)
    command = f"python -m bench.lucent_dropin --lucent PYTHON --steps {chosen.steps} --threads {chosen.threads}"
    record.save("lucent_dropin", command, rows, steps=chosen.steps, threads=chosen.threads)
    redraw_all("lucent_dropin")


def words(stored: dict[str, Any]) -> str:
    """What docs/lucent.md shows of a stored measurement."""
    header = ["network, target", "px", "lucent, ms a step", "the same script here", "ratio"]
    lines = [
        [
            f"`{row['network']}` `{row['target']}`",
            str(row["size"]),
            f"{1000 * row['lucent_s']:.0f}",
            f"{1000 * row['fvfast_s']:.0f}",
            f"{row['ratio']:.1f} ({row['ratios'][0]:.1f}-{row['ratios'][-1]:.1f})",
        ]
        for row in stored["rows"]
    ]
    how = f"Random weights, standard transforms, {stored['threads']} threads, medians of {ROUNDS} (range)."
    return f"{table(header, lines)}\n\n{how} Measured on {record.line(stored['machine'])}."


if __name__ == "__main__":
    main()
