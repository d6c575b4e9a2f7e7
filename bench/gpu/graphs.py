"""CUDA graphs counted, or refused, whoever records them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

REFUSAL = "no graphs are wanted here"


@contextmanager
def refused() -> Iterator[None]:
    """No capture begins inside: what would be captured runs step by step, as for a network that cannot be."""

    def enter(self: torch.cuda.graph) -> None:
        raise RuntimeError(REFUSAL)

    before = torch.cuda.graph.__enter__
    torch.cuda.graph.__enter__ = enter
    try:
        yield
    finally:
        torch.cuda.graph.__enter__ = before


@contextmanager
def counted() -> Iterator[list[int]]:
    """[how many captures began inside]."""
    count = [0]
    before = torch.cuda.graph.__enter__

    def enter(self: torch.cuda.graph) -> None:
        count[0] += 1
        return before(self)

    torch.cuda.graph.__enter__ = enter
    try:
        yield count
    finally:
        torch.cuda.graph.__enter__ = before
