"""Which backend serves which device, and why. Nothing here imports triton: it only looks for it."""

from __future__ import annotations

import os
from importlib.util import find_spec

import torch

BACKENDS = ("auto", "reference", "triton")
VARIABLE = "FVFAST_KERNELS"


def available(device: torch.device | str) -> bool:
    """Whether the Triton kernels can run on a device."""
    return not _obstacle(torch.device(device))


def describe(device: torch.device | str, backend: str = "auto") -> dict[str, str]:
    """Which backend would serve a device, and why: {"backend": its name, "reason": a sentence}."""
    chosen, reason = _choose(backend, torch.device(device))
    return {"backend": chosen, "reason": reason}


def resolve(backend: str, device: torch.device) -> str:
    """The backend that serves a device, "reference" or "triton"; ValueError or RuntimeError if none does."""
    return _choose(backend, device)[0]


def _choose(backend: str, device: torch.device) -> tuple[str, str]:
    asked_by = "the argument backend"
    if backend == "auto":
        backend, asked_by = os.environ.get(VARIABLE, "") or "auto", f"the environment variable {VARIABLE}"
    if backend not in BACKENDS:
        raise ValueError(f"{asked_by} must be one of {', '.join(BACKENDS)}, not {backend!r}")
    obstacle = _obstacle(device)
    if backend == "triton" and obstacle:
        raise RuntimeError(f"{asked_by} asks for triton, but {obstacle}")
    if backend != "auto":
        return backend, f"{asked_by} asks for {backend}"
    if device.type != "cuda":
        return "reference", f"the kernels need a CUDA device, not {device.type}"
    return ("reference", obstacle) if obstacle else ("triton", "a CUDA device with triton")


def _obstacle(device: torch.device) -> str:
    """Why the kernels cannot run on a device; empty if they can."""
    if find_spec("triton") is None:
        return "triton is not installed"
    if os.environ.get("TRITON_INTERPRET") == "1":
        return "" if device.type == "cpu" else f"its interpreter takes tensors on cpu, not on {device.type}"
    if device.type != "cuda":
        return f"the kernels need a CUDA device, not {device.type}"
    if torch.version.hip is not None or torch.cuda.get_device_capability(device) < (8, 0):
        return "the kernels need an NVIDIA GPU of compute capability 8.0 or later"
    return ""
