"""What a network does besides computing: whether it looks at values, draws random numbers, remembers, mixes images.

Found by watching it run. Each of these is harmless by itself, and makes wrong pictures where nobody takes care: a
recording replays one decision for ever, images that run side by side take each other's random numbers, a memory hands
something from one image to the next.
"""

from __future__ import annotations

import contextlib
import random
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

# Methods by which Python, or numpy, gets at a tensor's numbers without an operation that could be seen.
LOOKS = frozenset(
    {
        Tensor.numpy,
        Tensor.tolist,
        Tensor.__array__,
        Tensor.__dlpack__,
        Tensor.__repr__,
        Tensor.storage,
        Tensor.untyped_storage,
    }
)
PLAIN = (bool, int, float, str, type(None))


@dataclass
class Habits:
    """What a network does besides computing.

    reads: it looks at values, and may decide by them. draws: it draws random numbers. writes: it changes the image it
    gets. remembers: what it puts out depends on earlier passes, or may after some more. single: it takes one image at a
    time. rewrites: it changes its own weights. foreign: code of its own runs in it, not only that of known libraries.
    outside: what it reaches outside of itself; "" for nothing.
    """

    reads: bool = False
    draws: bool = False
    writes: bool = False
    remembers: bool = False
    single: bool = False
    rewrites: bool = False
    foreign: bool = False
    outside: str = ""

    @property
    def shared(self) -> bool:
        """Whether two of its copies share something: no pass may then begin while another is under way."""
        return bool(self.outside) or self.draws


_TABLE = threading.RLock()  # the generators are everybody's: whoever puts numbers in their place has them alone


class Dice:
    """The random numbers of one image's passes: a sequence of their own, whatever else draws meanwhile."""

    def __init__(self, seed: int) -> None:
        with _kept():
            _seed(seed)
            self.state = _states()

    @contextlib.contextmanager
    def __call__(self) -> Iterator[None]:
        """While entered, whatever draws takes the next of these numbers; the caller's come back afterwards."""
        with _kept():
            _restore(self.state)
            yield
            self.state = _states()


@contextlib.contextmanager
def seeded(seed: int) -> Iterator[None]:
    """While entered, random numbers are those of a seed; the caller's come back afterwards."""
    with Dice(seed)():
        yield


@contextlib.contextmanager
def drawing() -> Iterator[Callable[[], bool]]:
    """Tells whether anything has drawn random numbers since it was entered; the caller's come back afterwards."""
    with _kept():
        before = _states()
        yield lambda: not _same(before, _states())


def _seed(seed: int) -> None:
    torch.manual_seed(seed)
    random.seed(seed)
    np.random.seed(seed % 2**32)


@contextlib.contextmanager
def _kept() -> Iterator[None]:
    with _TABLE:
        before = _states()
        try:
            yield
        finally:
            _restore(before)


def _states() -> tuple[Any, ...]:
    cuda = [torch.cuda.get_rng_state()] if torch.cuda.is_initialized() else []
    return random.getstate(), np.random.get_state(), torch.get_rng_state(), *cuda


def _restore(states: tuple[Any, ...]) -> None:
    random.setstate(states[0])
    np.random.set_state(states[1])
    torch.set_rng_state(states[2])
    if len(states) > 3:
        torch.cuda.set_rng_state(states[3])


def _same(one: tuple[Any, ...], other: tuple[Any, ...]) -> bool:
    (mine, array, *tensors), (theirs, others, *more) = one, other
    numbers = all(np.array_equal(a, b) for a, b in zip(array, others, strict=True))
    return mine == theirs and numbers and all(a.equal(b) for a, b in zip(tensors, more, strict=True))


# Looking at values -------------------------------------------------------------------------------------------


def looks(func: Any, args: Any) -> bool:
    """Whether an operation of PyTorch's hands the value of a tensor to Python, or makes a shape of it."""
    if torch.Tag.data_dependent_output in func.tags:
        return True
    if torch.Tag.dynamic_output_shape not in func.tags:
        return False
    if func is not torch.ops.aten.index.Tensor:
        return True
    # Indices of whole numbers give a shape by their own; a mask gives one by what it holds.
    return any(index is not None and index.dtype in (torch.bool, torch.uint8) for index in args[1])


class Looks(TorchFunctionMode):
    """While entered, `see` is told of every tensor whose numbers are handed to Python or numpy by a method."""

    def __init__(self, see: Callable[[Tensor], None]) -> None:
        super().__init__()
        self.see = see

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func in LOOKS and args:
            self.see(args[0])
        return func(*args, **(kwargs or {}))


class _Operations(TorchDispatchMode):
    def __init__(self) -> None:
        super().__init__()
        self.looked = False

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False  # skipping it imports it, which takes seconds; nothing is compiled in here

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.looked = self.looked or looks(func, args)
        return func(*args, **(kwargs or {}))


@contextlib.contextmanager
def looking() -> Iterator[Callable[[], bool]]:
    """Tells whether Python has looked at the value of any tensor since it was entered."""
    seen: list[bool] = []
    with _Operations() as operations, Looks(lambda tensor: seen.append(True)):
        yield lambda: operations.looked or bool(seen)


# Memory ------------------------------------------------------------------------------------------------------


@dataclass
class Memory:
    """What a module has in plain attributes and in buffers, to see whether a pass changed it."""

    plain: dict[tuple[str, str], Any] = field(default_factory=dict)
    buffers: dict[str, tuple[int, int]] = field(default_factory=dict)

    @staticmethod
    def of(module: nn.Module) -> Memory:
        plain = {
            (name, key): value
            for name, child in module.named_modules()
            for key, value in vars(child).items()
            if isinstance(value, PLAIN)
        }
        return Memory(plain, {name: (id(b), b._version) for name, b in module.named_buffers()})
