"""What the report's figures are measured on: `python -m bench.gpu.machine --json FILE`."""

from __future__ import annotations

import importlib.metadata
import shutil
import subprocess
import sys
from typing import Any

import torch

from bench import record
from bench.gpu.findings import Findings, needs_gpu, stage_parser

PACKAGES = ("numpy", "torchvision", "timm", "pytest")
# What says whether the card is as it should be: other users, clocks, heat.
ASKED = ("driver_version", "pstate", "clocks.sm", "clocks.max.sm", "clocks.mem", "temperature.gpu", "memory.used")


def gpu_machine() -> dict[str, Any]:
    """A machine's stamp, with its driver, its GPU's capability, memory in bytes and state before anything runs."""
    import triton

    stamp = record.machine()
    properties = torch.cuda.get_device_properties(0)
    return {
        **stamp,
        "triton": triton.__version__,
        "cuda": torch.version.cuda,
        "cudnn": torch.backends.cudnn.version(),
        "capability": list(torch.cuda.get_device_capability()),
        "multiprocessors": properties.multi_processor_count,
        "memory_bytes": properties.total_memory,
        "packages": {name: version for name in PACKAGES if (version := _version(name))},
        "card": _card(),
        "line": record.line(stamp),
    }


def _card() -> dict[str, str]:
    """The card's state by nvidia-smi; {} where it cannot be asked."""
    tool = shutil.which("nvidia-smi")
    if tool is None:
        return {}
    try:
        command = [tool, f"--query-gpu={','.join(ASKED)}", "--format=csv,noheader", "--id=0"]
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=10)
    except (OSError, subprocess.TimeoutExpired):
        return {}
    return dict(zip(ASKED, (word.strip() for word in done.stdout.split(",")), strict=False))


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def main() -> int:
    options = stage_parser(__doc__).parse_args()
    if not needs_gpu("bench.gpu_report"):
        return 2
    Findings(options.json).say(**gpu_machine())
    return 0


if __name__ == "__main__":
    sys.exit(main())
