"""`--json`: one document on stdout, and nothing else there whatever a network or a library prints."""

from __future__ import annotations

import contextlib
import ctypes
import functools
import json
import math
import os
import sys
from collections.abc import Callable, Iterator
from typing import Annotated, Any, ParamSpec, TypeVar

import typer

Json = Annotated[bool, typer.Option("--json", help="One JSON document on stdout, nothing else there.")]

P = ParamSpec("P")
R = TypeVar("R")

_waiting: list[str] = []  # the document of the command that runs, until it ends
_rest: contextlib.ExitStack | None = None  # what ends with the command line, after its command


def json_alone(command: Callable[P, R]) -> Callable[P, R]:
    """A command with `as_json: Json`, which leaves stdout to what it hands to `tell` where that is set."""

    @functools.wraps(command)
    def run(*arguments: P.args, **options: P.kwargs) -> R:
        if not options.get("as_json"):
            return command(*arguments, **options)
        try:
            with diverted():
                return command(*arguments, **options)
        finally:
            while _waiting:
                print(_waiting.pop(), flush=True)
            if _rest is not None:
                _rest.enter_context(diverted())

    return run


def tell(document: dict[str, Any]) -> None:
    """Have a document printed as the command's only one. What is no number in it is written as null."""
    _waiting.append(json.dumps(_finite(document), indent=2, allow_nan=False))


def _finite(value: Any) -> Any:
    """JSON knows neither NaN nor infinities, which Python would write all the same."""
    if isinstance(value, dict):
        return {key: _finite(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(inner) for inner in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


@contextlib.contextmanager
def diverted() -> Iterator[None]:
    """Within it, all that is written to stdout goes to stderr: by Python, by C, and by processes that are started."""
    before = sys.stdout
    _flush(before)
    kept = _point_at_stderr()
    with open(os.devnull, "w") as nowhere:
        sys.stdout = sys.stderr or nowhere
        try:
            yield
        finally:
            _flush(sys.stdout)
            sys.stdout = before
            if kept is not None:
                os.dup2(kept, 1)
                os.close(kept)


@contextlib.contextmanager
def to_the_end(for_good: bool) -> Iterator[None]:
    """Within it, what is printed after a document goes to stderr too, such as by networks that are let go of.

    for_good: and whatever is still printed as the process ends.
    """
    global _rest
    before = sys.stdout
    with contextlib.ExitStack() as _rest:
        try:
            yield
        finally:
            aside, _rest = sys.stdout is not before, None
    if for_good and aside:
        _point_at_stderr()
        sys.stdout = sys.stderr


def _point_at_stderr() -> int | None:
    """Make file descriptor 1 what 2 is, or nowhere if that is closed; gives what it was, or None if it is closed."""
    try:
        kept = os.dup(1)
    except OSError:
        return None
    if sys.__stderr__ is None:  # descriptor 2 may be any file by now
        with open(os.devnull, "w") as nowhere:
            os.dup2(nowhere.fileno(), 1)
    else:
        os.dup2(2, 1)
    return kept


def _flush(stream: Any) -> None:
    """Write out what Python and C hold back, to where it belongs now."""
    streams: tuple[Any, ...] = (stream, sys.__stdout__)
    for one in streams:
        with contextlib.suppress(AttributeError, OSError, ValueError):  # absent, gone, or closed
            one.flush()
    with contextlib.suppress(AttributeError, OSError, TypeError):  # where C's library is found by another name
        ctypes.CDLL(None).fflush(None)
