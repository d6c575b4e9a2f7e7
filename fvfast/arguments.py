"""Checks of what people pass in Python: each gives the value in the one type that is computed with, or a sentence."""

from __future__ import annotations

import math
import operator
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from fvfast.errors import FvfastError

MANY = 1_000_000  # of anything that is counted out in advance: steps, copies, images
SEEDS = 2**63
THREADS = 1024
LONGEST_STEP = 1e6
STEEPEST = 100.0  # power of a cosine


def shown(value: object) -> str:
    """A value for a sentence, never longer than a few words."""
    try:
        text = repr(value)
    except Exception:  # whole numbers of thousands of digits have no repr, nor do some people's own classes
        return f"something of type {type(value).__name__} too long to show"
    text = " ".join(text.split())
    return text if len(text) <= 60 else f"{text[:50]}... ({type(value).__name__})"


def is_flag(value: object) -> bool:
    """Whether a value is True or False, Python's or numpy's."""
    return isinstance(value, bool) or (type(value).__name__ in ("bool_", "bool") and hasattr(value, "dtype"))


def is_zero(value: object) -> bool:
    """Whether a value is the number 0, in whatever type."""
    return _whole(value) == 0


def flag(name: str, value: Any) -> bool:
    if not is_flag(value):
        raise FvfastError(f"{name} must be True or False, not {shown(value)}")
    return bool(value)


def whole(name: str, value: Any, least: int, most: int = 2**31 - 1, unit: str = "") -> int:
    """A whole number, also where it comes as 48.0 or from numpy or torch. unit: what it counts, as in " px"."""
    number = _whole(value)
    if number is None:
        raise FvfastError(f"{name} must be a whole number, not {shown(value)}")
    if number < least:
        raise FvfastError(f"{name} must be {least}{unit} or more, not {shown(number)}")
    if number > most:
        raise FvfastError(f"{name} must be at most {most}{unit}, not {shown(number)}")
    return number


def maybe_whole(name: str, value: Any, least: int, most: int = 2**31 - 1) -> int | None:
    return None if value is None else whole(name, value, least, most)


def _whole(value: Any) -> int | None:
    if is_flag(value) or "bool" in str(getattr(value, "dtype", "")):
        return None
    if getattr(value, "shape", ()) not in ((), None):
        return None  # an array of one number is an array
    try:
        return operator.index(value)
    except TypeError:
        number = _real(value)
        return int(number) if number is not None and math.isfinite(number) and number == int(number) else None


def is_number(value: object) -> bool:
    """Whether a value is a real number, and no flag."""
    return _real(value) is not None


def _real(value: Any) -> float | None:
    if is_flag(value) or isinstance(value, (str, bytes, bytearray)) or "bool" in str(getattr(value, "dtype", "")):
        return None
    if getattr(value, "shape", ()) not in ((), None) or isinstance(value, complex):
        return None
    try:
        return float(value)
    except OverflowError:  # a whole number beyond 1e308
        return math.inf if value > 0 else -math.inf
    except (TypeError, ValueError, RuntimeError):
        return None


def number(
    name: str,
    value: Any,
    *,
    above: float | None = None,
    least: float | None = None,
    most: float | None = None,
) -> float:
    """A finite number within limits."""
    found = _real(value)
    if found is None:
        raise FvfastError(f"{name} must be a number, not {shown(value)}")
    if above is not None and not found > above:
        raise FvfastError(f"{name} must be above {above:g}, not {shown(found)}")
    if least is not None and not found >= least:
        raise FvfastError(f"{name} must be {least:g} or more, not {shown(found)}")
    if not math.isfinite(found):
        raise FvfastError(f"{name} must be a finite number, not {shown(found)}")
    if most is not None and found > most:
        raise FvfastError(f"{name} must be at most {most:g}, not {shown(found)}")
    return found


def seed(value: Any, copies: int = 1) -> int:
    """The seed of the first of so many images."""
    found = _whole(value)
    if found is None or found < 0:
        found = whole("seed", value, 0)
    if found + copies > SEEDS:
        raise FvfastError(f"seed must be below 2^63, not {shown(found)}")
    return found


def side(value: Any, name: str = "size") -> int | None:
    """The width and height of a square: a number, or two that are the same."""
    if value is None:
        return None
    if is_many(value):
        sides = list(value)
        if len(sides) == 2 and all(is_number(one) for one in sides) and sides[0] == sides[1]:
            return side(sides[0], name)
        raise FvfastError(f"{name} must be one number, since images are square, not {shown(value)}")
    found = _whole(value)
    if found is None:
        raise FvfastError(f"{name} must be a whole number of pixels, not {shown(value)}")
    return found


def is_many(value: Any) -> bool:
    """Whether a value is a sequence of values; strings and arrays of no dimension are one each."""
    one = isinstance(value, (str, bytes, Mapping)) or getattr(value, "shape", None) == ()
    return isinstance(value, Iterable) and not one


def steps_to_keep(value: Any) -> tuple[int | None, tuple[int, ...]]:
    """(about how many snapshots, after which steps): what `snapshots` means."""
    if is_number(value) or is_flag(value):
        return whole("snapshots", value, 1), ()
    if not is_many(value):
        raise FvfastError(f"snapshots must be a number or a list of steps, not {shown(value)}")
    return None, tuple(whole("a snapshot's step", step, 0) for step in value)


def text(name: str, value: Any) -> str:
    if not isinstance(value, str):
        raise FvfastError(f"{name} must be a string, not {shown(value)}")
    return value


def texts(name: str, value: Any) -> tuple[str, ...]:
    """Several strings from any sequence of them."""
    if isinstance(value, (set, frozenset)) or not is_many(value):
        raise FvfastError(f"{name} must be a string or a list of strings, not {shown(value)}")
    return tuple(text(f"each of {name}", one) for one in value)


def layer_name(value: Any) -> str:
    """The name that an objective is given for its layer."""
    if isinstance(value, str) and value:
        return value
    raise FvfastError(f"a layer goes by its name, a string such as 'features.3', not {shown(value)}")


def path(name: str, value: Any) -> Path:
    if not isinstance(value, (str, os.PathLike)) or not os.fspath(value):
        raise FvfastError(f"{name} must be the name of a file or folder, not {shown(value)}")
    if not isinstance(os.fspath(value), str) or "\0" in os.fspath(value):
        raise FvfastError(f"{name} must be the name of a file or folder in text, not {shown(value)}")
    return Path(value)


def callables(**given: Any) -> None:
    """Raise FvfastError where what is to be called back cannot be called."""
    for name, value in given.items():
        if value is not None and not callable(value):
            raise FvfastError(f"{name} must be a function, not {shown(value)}")


def dtype_name(value: Any) -> str | None:
    """The name of a precision that was given as such or as torch's or numpy's own."""
    if value is None or isinstance(value, str):
        return None if value is None else value.removeprefix("torch.")
    if type(value).__module__.partition(".")[0] in ("torch", "numpy") or isinstance(value, type):
        return str(getattr(value, "__name__", value)).removeprefix("torch.")
    raise FvfastError(f"dtype must be a name such as 'float32', not {shown(value)}")


def numbers(name: str, value: Any, **limits: float) -> tuple[float, ...] | float:
    """One finite number, or several from any sequence of them, or from an array or a tensor of whatever shape."""
    if is_number(value):
        return number(name, value, **limits)
    if isinstance(value, (set, frozenset)) or not is_many(value):
        raise FvfastError(f"{name} must be a number or a list of numbers, not {shown(value)}")
    found = value.flatten() if hasattr(value, "flatten") else value
    several = tuple(number(f"each number of {name}", one, **limits) for one in found)
    if not several:
        raise FvfastError(f"{name} must be a number or a list of numbers, not {shown(value)}")
    return several
