"""What a network computes in: what was asked for where the device computes in it, else float32, with the reason."""

from __future__ import annotations

import contextlib
import itertools
import platform
from dataclasses import dataclass

import torch
from torch import nn

from fvfast.errors import FvfastError

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


@dataclass(frozen=True)
class Precision:
    """dtype: what runs. why: the reason, in a few words. note: a sentence where it is not what was to be expected."""

    dtype: torch.dtype
    why: str
    note: str = ""

    @property
    def notes(self) -> list[str]:
        return [self.note] if self.note else []


def choose(dtype: str | None, device: torch.device, module: nn.Module | None = None) -> Precision:
    """What a network runs in on a device: `dtype`, by default bfloat16 on a GPU and float32 elsewhere.

    Half precision is for speed: where the device would only emulate it, and where `module` has complex weights, which
    have no half, it is float32. Raises FvfastError for an unknown name.
    """
    if dtype is not None and dtype not in DTYPES:
        raise FvfastError(f"unknown dtype {dtype!r}; there are {', '.join(DTYPES)}")
    wanted = torch.bfloat16 if device.type == "cuda" else torch.float32
    wanted = wanted if dtype is None else DTYPES[dtype]
    if wanted != torch.float32:
        complex_weights = module is not None and _has_complex(module)
        against = "the network has complex weights" if complex_weights else emulated(wanted, device)
        if against:
            return Precision(torch.float32, against, f"rendering in float32, not {_name(wanted)}: {against}")
    return Precision(wanted, f"the default on {_kind(device)}" if dtype is None else "as asked for")


def emulated(dtype: torch.dtype, device: torch.device) -> str:
    """Why half precision would only be emulated on a device; empty where it is not."""
    if device.type == "cpu":
        has = {torch.bfloat16: _processor_has_bfloat16, torch.float16: _processor_has_float16}.get(dtype)
        return f"this processor would only emulate {_name(dtype)}, slower than float32" if has and not has() else ""
    if device.type == "cuda" and dtype == torch.bfloat16 and not _gpu_has_bfloat16(device):
        return "this GPU would only emulate bfloat16"
    return ""


def _processor_has_bfloat16() -> bool:
    # oneDNN says yes from AVX-512 on, but without AVX512-BF16 or AMX widens to float32 and rounds back: on a Cascade
    # Lake, at 224 px, a step of EfficientNet-Lite0 took 1.6 times as long as in float32, one of ResNet-18 2.4 times.
    if not _onednn("_is_mkldnn_bf16_supported"):
        return False
    if platform.machine().lower() not in ("x86_64", "amd64"):
        return True
    return torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()


def _processor_has_float16() -> bool:
    # Where it has not, the same step of EfficientNet-Lite0 took eight times as long.
    return _onednn("_is_mkldnn_fp16_supported")


def _onednn(query: str) -> bool:
    return torch.backends.mkldnn.is_available() and bool(getattr(torch.ops.mkldnn, query, lambda: False)())


def _gpu_has_bfloat16(device: torch.device) -> bool:
    if not torch.cuda.is_available():
        return True  # it is a GPU of a cluster, of which this machine knows nothing
    with contextlib.nullcontext() if device.index is None else torch.cuda.device(device):
        return torch.cuda.is_bf16_supported(including_emulation=False)


def _has_complex(module: nn.Module) -> bool:
    return any(tensor.is_complex() for tensor in itertools.chain(module.parameters(), module.buffers()))


def _kind(device: torch.device) -> str:
    return {"cpu": "a CPU", "cuda": "a GPU"}.get(device.type, device.type)


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
