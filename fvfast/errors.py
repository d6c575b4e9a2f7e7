"""Errors that are the user's to mend: one clear sentence each, naming the fix."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class FvfastError(Exception):
    """Bad input, or a machine that cannot do what was asked. The command line prints it and exits with 2."""


class Fault(RuntimeWarning):
    """Something of fvfast's own went wrong that the result does not depend on: it was made a slower way.

    PYTHONWARNINGS=error::RuntimeWarning makes an error of it, with the trace of what it was made from.
    """


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error means that memory ran out, on a GPU or on the CPU (where torch raises a RuntimeError)."""
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":  # torch's, without importing it
        return True
    text = str(error)
    return isinstance(error, RuntimeError) and (
        "can't allocate memory" in text or "not enough memory" in text or "bad_alloc" in text
    )


def nearest(word: str, names: Iterable[str], count: int = 3) -> list[str]:
    """The names most like `word`, best first; those that contain it come before those merely alike."""
    names = list(names)
    folded = word.lower()
    inside = sorted((n for n in names if folded and folded in n.lower()), key=len)
    lowered = {n.lower(): n for n in names}
    alike = [lowered[m] for m in difflib.get_close_matches(folded, lowered, n=count, cutoff=0.5)]
    # An exact look-alike ("_blocks.1O" for "_blocks.10") beats a longer name that contains the word.
    return list(dict.fromkeys(alike + inside))[:count]


def did_you_mean(word: str, names: Iterable[str]) -> str:
    """` (did you mean a, b?)`, or nothing where no name comes near."""
    near = [name if name.isprintable() else repr(name) for name in nearest(word, names)]
    return f" (did you mean {', '.join(near)}?)" if near else ""
