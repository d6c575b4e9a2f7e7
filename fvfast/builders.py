"""Networks of one's own by name: `package.module:callable`."""

from __future__ import annotations

import copy
import importlib
import inspect
import sys
from pathlib import Path
from typing import Any

from fvfast import wrapping
from fvfast.errors import FvfastError, did_you_mean


def find(name: str) -> Any:
    """What `package.module:attribute` names. Raises FvfastError."""
    package, _, attribute = name.partition(":")
    if not all(part.isidentifier() for part in (*package.split("."), attribute)):
        raise FvfastError(f"{name!r} is no model; write package.module:callable")
    if "" not in sys.path and str(Path.cwd()) not in sys.path:
        sys.path.insert(0, str(Path.cwd()))  # as `python -m` does: one's own file lies in the current folder
    try:
        found = importlib.import_module(package)
    except ModuleNotFoundError as error:
        if error.name and (package == error.name or package.startswith(error.name + ".")):
            raise FvfastError(f"no Python module {package!r} for model {name!r}") from error
        raise
    if not hasattr(found, attribute):
        near = did_you_mean(attribute, [n for n in dir(found) if not n.startswith("_")])
        raise FvfastError(f"{package} has no {attribute!r}{near}")
    return getattr(found, attribute)


def make(name: str, builder: Any) -> Any:
    """What a builder makes, which is called without arguments."""
    if not callable(builder):
        near = wrapping.cure(builder)
        raise FvfastError(f"{name} is of type {type(builder).__name__}, which makes no torch.nn.Module{near}")
    try:
        inspect.signature(builder).bind()
    except TypeError as error:
        raise FvfastError(
            f"{name} cannot be called without arguments ({error}): name a function that makes the network with them"
        ) from error
    except ValueError:  # written in C, without a signature
        pass
    return builder()


def copied(name: str, made: Any) -> Any:
    """A copy of what is there already."""
    try:
        return copy.deepcopy(made)
    except Exception as error:  # each kind of state that cannot be copied has its own
        raise FvfastError(f"{name} cannot be copied to load weights into it: name a function that makes it") from error
