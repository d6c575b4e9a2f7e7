"""A network as a flat list of tensor operations, recorded from one run of it.

Modules, hooks and Python's own control flow are left behind: what is replayed is what a fixed input size needs for the
wanted outputs, and nothing else. That is what other passes rewrite (`fvfast.fusion`).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from fvfast.habits import Looks, looks


@dataclass(frozen=True)
class Ref:
    """A place in a replay's memory: the image is 0, every result of an operation has a number of its own."""

    index: int


@dataclass(frozen=True)
class Op:
    """One operation: what is called with what, and where its results go (None for one that is no tensor)."""

    call: Callable[..., Any]
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    out: tuple[int | None, ...]

    @property
    def inputs(self) -> list[int]:
        """The places that it reads, one entry a reading."""
        return [ref.index for ref in _refs((self.args, self.kwargs))]


@dataclass(frozen=True)
class Tape:
    """Operations in order, and the places of the outputs. Calling it replays them; autograd sees ordinary operations.

    shapes: of every tensor that was seen, by place. spent: for every operation, the places that nothing reads after
    it.
    """

    ops: tuple[Op, ...]
    outputs: tuple[int, ...]
    shapes: dict[int, torch.Size] = field(repr=False)
    spent: list[list[int]] = field(default_factory=list, init=False, repr=False)

    def __post_init__(self) -> None:
        last = {place: number for number, op in enumerate(self.ops) for place in op.inputs}
        self.spent.extend([] for _ in self.ops)
        for place, number in last.items():
            if place not in self.outputs:
                self.spent[number].append(place)

    def __call__(self, image: Tensor) -> list[Tensor]:
        memory: dict[int, Any] = {0: image}
        for number, op in enumerate(self.ops):
            found = op.call(*filled(op.args, memory), **filled(op.kwargs, memory))
            for place, value in zip(op.out, found if isinstance(found, (tuple, list)) else (found,), strict=True):
                if place is not None:
                    memory[place] = value
            for place in self.spent[number]:
                del memory[place]
        return [memory[place] for place in self.outputs]

    def uses(self) -> Counter[int]:
        """How often each place is read; being an output counts too."""
        return Counter([*(place for op in self.ops for place in op.inputs), *self.outputs])


class Refused(Exception):
    """A network cannot be replayed as a list of operations. The text says why, as in "because ...": it is no fault."""


def record(run: Callable[[Tensor], Sequence[Tensor]], image: Tensor) -> Tape:
    """The operations by which `run` makes its outputs from an image [B, C, H, W].

    Raises `Refused` where they cannot be replayed: an operation writes into a tensor that others share, or draws random
    numbers; Python looks at a value that the image determines, and may decide by it; or `run` does not go through while
    it is watched.
    """
    # Without a gradient asked for, attention and the like choose operations that have none.
    leaf = image.detach().requires_grad_()
    mode = _Recorder(leaf)
    outputs: list[int | None] = []
    try:
        with torch.enable_grad(), mode, Looks(mode.look):
            outputs = [mode.place(output) for output in run(leaf)]
    except Exception as error:
        if mode.fault is None:
            raise Refused(mode.refused or f"it does not go through: {in_short(error)}") from error
    if mode.fault is not None:
        raise mode.fault
    if mode.refused:
        raise Refused(mode.refused)
    places = [place for place in outputs if place is not None]
    if len(places) < len(outputs):
        raise Refused("an output is made by no operation that can be recorded")
    return _needed(Tape(tuple(mode.ops), tuple(places), mode.shapes))


def in_short(error: BaseException) -> str:
    """An error as its kind and its first line."""
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0][:120]}" if lines else type(error).__name__


aten = torch.ops.aten
# Operations that only some layouts in memory allow, by those that do the same for all: a replay has layouts of its own.
ANY_LAYOUT = {aten.view.default: aten.reshape.default, aten._unsafe_view.default: aten.reshape.default}


class _Recorder(TorchDispatchMode):
    """Writes down every operation, with tensors by number; what it did not see made (weights) is kept as it is.

    refused: why what is written down cannot be replayed, or nothing. fault: an error of the recorder's own, as against
    those of the network that it watches.
    """

    def __init__(self, image: Tensor) -> None:
        super().__init__()
        self.ops: list[Op] = []
        self.refused = ""
        self.fault: Exception | None = None
        self.places: dict[int, int] = {id(image): 0}
        self.shapes = {0: image.shape}
        self._alive: list[Tensor] = [image]  # an id is unique only as long as its tensor lives
        self._storages: Counter[int] = Counter({_storage(image): 1})
        # The places that the image determines, and what holds their numbers: `x.data` is another tensor on the same.
        self._live, self._written = {0}, {_storage(image)}
        self._busy = False

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False  # skipping it imports it, which takes seconds; nothing is compiled in here

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        with self._own():
            call, given, named = ANY_LAYOUT.get(func, func), self._numbered(args), self._numbered(kwargs)
            live = any(ref.index in self._live for ref in _refs((given, named)))
            if live and looks(func, args):
                self.refused = self.refused or f"its code looks at values ({func.name()}), and may decide by them"
            if live and func is aten.as_strided.default:
                self.refused = self.refused or "its code goes by how numbers lie in memory (as_strided)"
            if torch.Tag.nondeterministic_seeded in func.tags:
                self.refused = self.refused or f"{func.name()} draws random numbers, or may"
            if func._schema.is_mutable:
                call, changed = _out_of_place(func), args[0] if args else None
                # Only its own tensor may change: one that a view shares would change elsewhere too.
                if call is None or not isinstance(changed, Tensor) or self._shared(changed):
                    self.refused = self.refused or f"{func.name()} writes into a tensor that others share"
        found = func(*args, **kwargs)
        with self._own():
            results = found if isinstance(found, (tuple, list)) else (found,)
            self.ops.append(Op(call or func, given, named, tuple(self._new(result, live) for result in results)))
        return found

    def look(self, tensor: Tensor) -> None:
        """Python is about to get at a tensor's numbers."""
        if self._busy:
            return
        with self._own():
            if self._determined(tensor):
                self.refused = self.refused or "its code looks at values, and may decide by them"

    def _determined(self, tensor: Tensor) -> bool:
        """Whether the image determines a tensor's numbers."""
        return self.place(tensor) in self._live or _storage(tensor) in self._written

    @contextmanager
    def _own(self) -> Iterator[None]:
        self._busy = True
        try:
            yield
        except Exception as fault:
            self.fault = fault
            raise
        finally:
            self._busy = False

    def place(self, tensor: Tensor) -> int | None:
        return self.places.get(id(tensor))

    def _new(self, tensor: Any, live: bool) -> int | None:
        if not isinstance(tensor, Tensor):
            return None
        if id(tensor) not in self.places:  # what was written into in place comes back under a new number
            self._alive.append(tensor)
            self._storages[_storage(tensor)] += 1
        place = self.places[id(tensor)] = len(self.shapes)
        self.shapes[place] = tensor.shape
        if live:
            self._live.add(place)
            self._written.add(_storage(tensor))
        return place

    def _shared(self, tensor: Tensor) -> bool:
        return id(tensor) not in self.places or self._storages[_storage(tensor)] > 1

    def _numbered(self, value: Any) -> Any:
        if isinstance(value, Tensor):
            place = self.place(value)
            if place is None and _storage(value) in self._written:
                self.refused = self.refused or "its code reads a tensor past its history (.data)"
            return value if place is None else Ref(place)
        if isinstance(value, (tuple, list)):
            return type(value)(self._numbered(v) for v in value)
        if isinstance(value, dict):
            return {key: self._numbered(v) for key, v in value.items()}
        return value


def _storage(tensor: Tensor) -> int:
    """What tensors that share memory have in common; also where they are fake and have none."""
    return tensor.untyped_storage()._cdata


def _out_of_place(func: Any) -> Any:
    """The operation that returns what `func` writes into its first argument, `add` for `add_`; None if none does."""
    namespace, _, name = func._schema.name.partition("::")
    if not name.endswith("_"):
        return None
    packet = getattr(getattr(torch.ops, namespace), name[:-1], None)
    return getattr(packet, func._overloadname, None)


def _needed(tape: Tape) -> Tape:
    """Without the operations that no output needs."""
    wanted = set(tape.outputs)
    kept: list[Op] = []
    for op in reversed(tape.ops):
        if wanted.intersection(op.out):
            wanted.update(op.inputs)
            kept.append(replace(op, out=tuple(place if place in wanted else None for place in op.out)))
    return Tape(tuple(reversed(kept)), tape.outputs, tape.shapes)


def _refs(value: Any) -> Iterator[Ref]:
    if isinstance(value, Ref):
        yield value
    elif isinstance(value, (tuple, list)):
        for v in value:
            yield from _refs(v)
    elif isinstance(value, dict):
        yield from _refs(list(value.values()))


def filled(value: Any, memory: Mapping[int, Any]) -> Any:
    """Arguments with what the memory holds in place of each `Ref`."""
    if isinstance(value, Ref):
        return memory[value.index]
    if isinstance(value, (tuple, list)):
        return type(value)(filled(v, memory) for v in value)
    if isinstance(value, dict):
        return {key: filled(v, memory) for key, v in value.items()}
    return value
