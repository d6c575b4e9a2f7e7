"""What this machine is, and which path a render will take on it."""

from __future__ import annotations

import importlib.metadata
import platform
from typing import Any

import fvfast_kernels
import torch

import fvfast
from fvfast.lowering import unusable
from fvfast.optimize import crew_size
from fvfast.precision import choose, emulated


def report() -> dict[str, Any]:
    """Versions, devices, the path that will run with its reason, and how the work is spread."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    chosen = fvfast_kernels.describe(device)
    workers, threads = crew_size(None)
    found: dict[str, Any] = {
        "fvfast": fvfast.__version__,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "torchvision": _version("torchvision"),
        "triton": _version("triton"),
        "timm": _version("timm"),
        "platform": platform.platform(),
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu",
    }
    if device.type == "cuda":
        major, minor = torch.cuda.get_device_capability(device)
        memory = torch.cuda.get_device_properties(device).total_memory
        found |= {"capability": f"sm_{major}{minor}", "memory": f"{memory / 2**30:.0f} GiB"}
    found |= {
        "path": chosen["backend"],
        "why": chosen["reason"],
        "networks": _networks(device),
        "dtype": _dtype(device),
        "at once": f"{workers} images, {threads} thread{'s' if threads > 1 else ''} each",
    }
    return found


def _networks(device: torch.device) -> str:
    if device.type != "cpu":
        return "in a CUDA graph; the fastest of their own modules, tuned, recorded and compiled ones"
    reasons = {dtype: unusable(dtype) for dtype in (torch.float32, torch.bfloat16)}
    fused = " and ".join(str(dtype).removeprefix("torch.") for dtype, reason in reasons.items() if not reason)
    why = "; ".join(dict.fromkeys(reason for reason in reasons.values() if reason))
    if not fused:
        return f"their own modules: {why}"
    return f"fused in {fused}" + (f"; modules otherwise: {why}" if why else "")


def _dtype(device: torch.device) -> str:
    """What networks compute in unless told otherwise, and what they cannot be told to."""
    default = str(choose(None, device).dtype).removeprefix("torch.")
    slow = [str(half).removeprefix("torch.") for half in (torch.bfloat16, torch.float16) if emulated(half, device)]
    return f"{default} by default" + (f"; {' and '.join(slow)} would only be emulated, slower" if slow else "")


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"
