"""Weights files as they are found: safetensors, and what `torch.load` reads without running code."""

from __future__ import annotations

import argparse
import collections
import datetime
import pathlib
import re
import types
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from fvfast.errors import FvfastError, did_you_mean

DEPTH = 8  # of mappings in mappings
_BLOCKED = re.compile(r"GLOBAL ([\w.]+)")  # how torch names what it will not import

# Values that trainers keep beside the weights: plain containers, which run nothing when they are made. Paths of either
# system are read on both.
INERT: list[Any] = [
    argparse.Namespace,
    types.SimpleNamespace,
    (pathlib.PurePosixPath, "pathlib.PosixPath"),
    (pathlib.PureWindowsPath, "pathlib.WindowsPath"),
    pathlib.PurePosixPath,
    pathlib.PureWindowsPath,
    collections.defaultdict,
    datetime.datetime,
    datetime.timedelta,
    list,
    dict,
    int,
    float,
]


@dataclass
class State:
    """All that a file holds, by dotted names; versions: what `state_dict` says of modules, by the same names."""

    entries: dict[str, Any] = field(default_factory=dict)
    versions: dict[str, Any] = field(default_factory=dict)
    mappings: dict[str, int] = field(default_factory=dict)  # by their prefix ("" or "model."): how many tensors in it


def entry_of(weights: str) -> tuple[str, str | None]:
    """The file that `weights` names, and the entry of it where one is named: FILE or FILE:ENTRY."""
    if Path(weights).is_file():
        return weights, None
    file, colon, entry = weights.rpartition(":")
    return (file, entry) if colon and entry and Path(file).is_file() else (weights, None)


def read(file: str) -> State:
    content = _safetensors(file) if _is_safetensors(file) else _pickled(file)
    state = State()
    if isinstance(content, (list, tuple)):
        content = dict(enumerate(content))
    if isinstance(content, Mapping):
        _flatten(content, "", state)
    if not any(isinstance(value, Tensor) for value in state.entries.values()):
        raise FvfastError(f"{file} holds no state_dict; save `model.state_dict()` or a safetensors file")
    return state


def _is_safetensors(file: str) -> bool:
    """By its name, or by its first bytes: the length of a header in JSON, and where that begins."""
    if file.lower().endswith(".safetensors"):
        return True
    with open(file, "rb") as opened:
        head = opened.read(9)
    return head[8:] == b"{" and int.from_bytes(head[:8], "little") <= Path(file).stat().st_size - 8


def _safetensors(file: str) -> Any:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return load_file(file)
    except SafetensorError as error:
        raise FvfastError(f"{file} is not a readable safetensors file ({error})") from error


def _pickled(file: str) -> Any:
    try:
        with torch.serialization.safe_globals([*INERT, *_numpys()]), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return torch.load(file, map_location="cpu", weights_only=True)
    except Exception as error:  # pickle raises many kinds; whichever it is, the file is not plain weights
        if "TorchScript" in str(error):
            raise FvfastError(
                f"{file} is a TorchScript archive, not a plain checkpoint: save the state_dict of the module it was "
                "made from"
            ) from error
        foreign = _foreign(file) or ", ".join(_BLOCKED.findall(str(error))[:1])
        mend = "save it as safetensors"
        if foreign:
            mend = "where you trust it, read it with weights_only=False and save the network's state_dict() alone"
        holds = f", and it holds {foreign} too" if foreign else ""
        raise FvfastError(
            f"{file} is not a plain checkpoint: only tensors are read (weights_only=True){holds}; {mend}"
        ) from error


def _foreign(file: str) -> str:
    """What a file would have to import to be read, found without importing it."""
    try:
        names = torch.serialization.get_unsafe_globals_in_checkpoint(file)
    except Exception:  # no checkpoint at all, or one from before torch 1.6
        return ""
    pairs = [kind if isinstance(kind, tuple) else (kind, "") for kind in (*INERT, *_numpys())]
    known = {name or f"{kind.__module__}.{kind.__qualname__}" for kind, name in pairs}
    return ", ".join(sorted(set(names) - known)[:2])


def _numpys() -> list[Any]:
    """What numpy's numbers and arrays of numbers are pickled with: figures that trainers keep."""
    import numpy as np
    from numpy._core import multiarray

    kinds = {type(np.dtype(code)) for code in "?bBhHiIlLqQefd"}
    made: list[Any] = [multiarray.scalar, multiarray._reconstruct]
    older = [(function, f"numpy.core.multiarray.{function.__name__}") for function in made]
    return [*made, *older, np.ndarray, np.dtype, *kinds]


def _flatten(content: Mapping[Any, Any], prefix: str, state: State, depth: int = 0) -> int:
    """Put everything in `content` into a state, by dotted names; returns how many tensors that were."""
    count = 0
    for key, value in content.items():
        name = f"{prefix}{key}"
        if isinstance(value, Mapping) and depth < DEPTH and not name.endswith("_extra_state"):
            count += _flatten(value, f"{name}.", state, depth + 1)
            continue
        state.entries[name] = value
        count += isinstance(value, Tensor)
    for name, version in (getattr(content, "_metadata", None) or {}).items():
        state.versions[f"{prefix}{name}".removesuffix(".")] = version
    if count:
        state.mappings[prefix] = count
    return count


def within(state: State, entry: str, file: str) -> State:
    """The part of a state below one of its names."""
    start = entry.removesuffix(".") + "."
    inside = {key.removeprefix(start): value for key, value in state.entries.items() if key.startswith(start)}
    if not any(isinstance(value, Tensor) for value in inside.values()):
        firsts = dict.fromkeys(
            key.partition(".")[0] for key, value in state.entries.items() if isinstance(value, Tensor)
        )
        known = did_you_mean(entry, firsts) or f"; there are {', '.join(list(firsts)[:6])}"
        raise FvfastError(f"{file} has no weights under {entry!r}{known}")
    versions = {key.removeprefix(start): value for key, value in state.versions.items() if key.startswith(start)}
    counts = {key.removeprefix(start): value for key, value in state.mappings.items() if key.startswith(start)}
    return State(inside, versions, {**counts, "": len(inside)})
