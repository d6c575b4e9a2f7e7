"""Everything that only a GPU can tell, in one command of under eight minutes, without a network.

    python -m bench.gpu_report            the whole report, into bench/results/<device>-<date>.json and .md
    python -m bench.gpu_report --quick    smaller batches, to see that it runs

In this order: the tests marked `gpu`, compute-sanitizer on the kernels where it is installed, the kernels against
PyTorch (bench.kernels), whole steps against the lucent-style loop and the reference path (bench.steps), how fast a
whole network's channels are rendered, how far half precision is from float32 in the end, and how far the kernels'
way through the same steps is from the reference path's (bench.trajectories). Figures whose gate failed are kept in
the JSON, and no ratio is printed for them.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import re
import shutil
import statistics
import subprocess
import sys
import time
from typing import Any

import torch

import fvfast
from bench import trajectories
from bench.report import ROOT, stamp, table
from bench.steps import Case, backend, measure

RESULTS = ROOT / "bench" / "results"
MODELS = (("googlenet", "inception4a"), ("resnet50", "layer3"))
SIZES, BATCHES = (224, 512), (1, 16, 64, 256)
ATLAS_LAYERS = ("3a", "3b", "4a", "4b", "4c", "4d", "4e", "5a", "5b")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="small batches and few steps")
    options = parser.parse_args()
    if not torch.cuda.is_available():
        print("bench.gpu_report needs an NVIDIA GPU: torch finds none here.", file=sys.stderr)
        return 2
    device = torch.device("cuda")
    name = re.sub(r"[^a-z0-9]+", "-", torch.cuda.get_device_name().lower()).strip("-")
    path = RESULTS / f"{name}-{datetime.date.today().isoformat()}.json"
    RESULTS.mkdir(exist_ok=True)
    report: dict[str, Any] = {"machine": machine()}
    parts = {
        "tests": gpu_tests,
        "sanitizer": sanitizer,
        "kernels": lambda: kernels(options.quick),
        "steps": lambda: steps(device, options.quick),
        "atlas": lambda: atlas(options.quick),
        "quality": lambda: quality(options.quick),
        "trajectories": lambda: trajectories.on_gpu(options.quick),
    }
    for part, run in parts.items():
        started = time.perf_counter()
        report[part] = run()
        print(f"{part}: {time.perf_counter() - started:.0f} s", file=sys.stderr, flush=True)
        # Written after every part: what is measured is kept, whatever comes after.
        path.write_text(json.dumps(report, indent=1) + "\n")
    text = markdown(report)
    path.with_suffix(".md").write_text(text)
    print(text)
    return 0 if healthy(report) else 1


def machine() -> dict[str, str]:
    """What the figures were measured on."""
    import triton

    query = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    driver = "unknown"
    if shutil.which(query[0]):
        driver = subprocess.run(query, capture_output=True, text=True, check=False).stdout.strip() or driver
    return {"stamp": stamp(), "driver": driver, "triton": triton.__version__, "cuda": torch.version.cuda or "none"}


# The parts -------------------------------------------------------------------------------------------------


def gpu_tests() -> dict[str, Any]:
    """The tests marked `gpu`, in a process of their own."""
    done = _run([sys.executable, "-m", "pytest", "-q", "-m", "gpu", "-p", "no:cacheprovider"])
    return {"passed": done.returncode == 0, "summary": _last_line(done.stdout), "output": _tail(done)}


def sanitizer() -> dict[str, Any]:
    """compute-sanitizer's memory check on the smallest GPU tests of the kernels; not run where it is not installed."""
    tool = shutil.which("compute-sanitizer")
    if tool is None:
        return {"ran": False, "reason": "compute-sanitizer is not installed"}
    test = [sys.executable, "-m", "pytest", "-q", "-m", "gpu", "tests/kernels/test_gpu.py", "-k", "sanitizer"]
    try:
        done = _run([tool, "--error-exitcode", "9", *test], timeout=90)
    except subprocess.TimeoutExpired:
        return {"ran": False, "reason": "not finished within 90 s"}
    if done.returncode == 5:
        return {"ran": False, "reason": "no test carries the name 'sanitizer'"}
    return {"ran": True, "passed": done.returncode == 0, "output": _tail(done)}


def kernels(quick: bool) -> dict[str, Any]:
    """`bench.kernels` in a process of its own."""
    file = RESULTS / ".kernels.json"
    sizes = ["--size", "224", "--batch", "1", "16"] if quick else []
    done = _run([sys.executable, "-m", "bench.kernels", "--json", str(file), *sizes])
    if not file.exists():
        return {"passed": False, "output": _tail(done)}
    found = json.loads(file.read_text())
    file.unlink()
    return {"passed": done.returncode == 0, "table": done.stdout, **found}


def steps(device: torch.device, quick: bool) -> list[dict[str, Any]]:
    """Whole steps at every size and batch; those that do not fit are named, not left out."""
    found: list[dict[str, Any]] = []
    for model, layer in MODELS:
        for size in SIZES[:1] if quick else SIZES:
            for batch in BATCHES[:2] if quick else BATCHES:
                case = Case(model, layer, batch, size)
                try:
                    found.append(measure(case, device, torch.bfloat16, 0.2 if quick else 0.6))
                except torch.OutOfMemoryError:
                    found.append({"case": f"{model} {layer}, {size} px, batch {batch}", "out of memory": True})
                torch.cuda.empty_cache()
                torch.cuda.reset_peak_memory_stats()
    return found


def atlas(quick: bool) -> dict[str, Any]:
    """512 channels spread over GoogLeNet's inception blocks, 256 steps, and what all of them would take."""
    per_layer = 4 if quick else 57
    wanted, total = [], 0
    layers = {layer.name: layer for layer in _layers("googlenet").values()}
    for block in ATLAS_LAYERS:
        channels = layers[f"inception{block}"].channels
        total += channels
        spread = sorted({round(i * (channels - 1) / (per_layer - 1)) for i in range(per_layer)})
        wanted.append(f"inception{block}:" + ",".join(map(str, spread)))
    result = fvfast.render("googlenet", wanted, weights="none", size=224, steps=32 if quick else 256)
    each = result.seconds / len(result)
    return {
        "channels": len(result),
        "steps": result.recipes[0].steps,
        "seconds": result.seconds,
        "stages": result.stages,
        "all channels": total,
        "seconds for all, extrapolated": each * total,
        "path": result.path,
    }


def quality(quick: bool) -> dict[str, Any]:
    """Final objectives of 32 channels in half precision with the kernels, against float32 by the reference path."""
    try:
        fvfast.load()
        model, weights, target = "efficientnet_lite0", "default", "_blocks.10:0-31"
    except ImportError:
        model, weights, target = "googlenet", "none", "inception4a:0-31"
    options: dict[str, Any] = {"weights": weights, "size": 224, "steps": 16 if quick else 128}
    with backend("reference"):
        exact = fvfast.render(model, target, dtype="float32", **options)
    fast = fvfast.render(model, target, dtype="bfloat16", **options)
    changes = ((fast.objective - exact.objective) / exact.objective.abs()).tolist()
    return {
        "model": f"{model}, weights {weights}",
        "channels": len(fast),
        "median change of the final objective": statistics.median(changes),
        "median of its size": statistics.median(map(abs, changes)),
    }


# Words -----------------------------------------------------------------------------------------------------


def healthy(report: dict[str, Any]) -> bool:
    """Whether the tests, the sanitizer and every gate passed."""
    gates = all(step["gate"]["passed"] for step in report["steps"] if "gate" in step)
    return (
        report["tests"]["passed"] and report["sanitizer"].get("passed", True) and report["kernels"]["passed"] and gates
    )


def markdown(report: dict[str, Any]) -> str:
    """The report for people."""
    machine, atlas, end = report["machine"], report["atlas"], report["quality"]
    stamp = f"{machine['stamp']}, driver {machine['driver']}, triton {machine['triton']}, CUDA {machine['cuda']}"
    rows = []
    for step in report["steps"]:
        if "gate" not in step:
            rows.append([step["case"], "does not fit", *[""] * 6])
            continue
        ratios, ms = step["ratios"] or {}, step["ms"]["fvfast"]
        memory = step["peak memory over the network's own"]
        rows.append(
            [
                step["case"],
                f"{ms['p20']:.2f} / {ms['p50']:.2f} / {ms['p80']:.2f}",
                *[f"{ratios[key]:.2f}x" if key in ratios else "gate failed" for key in RATIOS],
                f"{step['share outside the network']:.0%}",
                f"{memory:.2f}" if memory else "",
            ]
        )
    header = ["step", "ms p20/p50/p80", "lucent-style", "reference", "graphed", "outside the network", "memory"]
    check = report["sanitizer"]
    return "\n\n".join(
        [
            f"# {torch.cuda.get_device_name() if torch.cuda.is_available() else 'GPU'} report",
            stamp,
            f"Tests: {report['tests']['summary']}. Memory check: "
            + (("passed" if check["passed"] else "FAILED") if check["ran"] else check["reason"])
            + ".",
            "## Kernels",
            report["kernels"].get("table", report["kernels"].get("output", "")),
            "## Whole steps",
            table(header, [row[: len(header)] for row in rows]),
            "## A whole network",
            f"{atlas['channels']} channels of GoogLeNet, {atlas['steps']} steps at 224 px, in "
            f"{atlas['seconds']:.1f} s; all {atlas['all channels']} would take "
            f"{atlas['seconds for all, extrapolated']:.0f} s.",
            "## Half precision in the end",
            f"Median change of the final objective over {end['channels']} channels of {end['model']}: "
            f"{end['median change of the final objective']:+.2%} (median of its size "
            f"{end['median of its size']:.2%}).",
            "## The kernels' way and the reference path's",
            trajectories.summary(report["trajectories"]),
            "",
        ]
    )


RATIOS = ("over lucent-style", "over reference", "over graphed")


def _layers(model: str):
    from fvfast.layers import trace

    loaded = fvfast.load(model, "none")
    return trace(loaded.module.eval(), loaded.size)


def _run(command: list[str], timeout: float = 420) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=timeout, env=dict(os.environ)
    )


def _tail(done: subprocess.CompletedProcess[str], count: int = 40) -> str:
    return "\n".join((done.stdout + done.stderr).splitlines()[-count:])


def _last_line(text: str) -> str:
    lines = [line for line in text.splitlines() if line.strip()]
    return lines[-1].strip("= ") if lines else ""


if __name__ == "__main__":
    sys.exit(main())
