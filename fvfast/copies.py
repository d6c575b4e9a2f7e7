"""Copies of networks that share nothing which a forward pass may change, also of those that `copy.deepcopy` refuses.

A forward pass may leave things behind: on the module (`self.kept`), in a hook's closure, in a list of the class. Every
copy has these for itself, so that networks that run side by side, or one after the other, do not see each other's.
"""

from __future__ import annotations

import collections
import copy
import functools
import threading
import types
import weakref
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from fvfast.outside import ATOMIC, variables

LOCKS = tuple(type(make()) for make in (threading.Lock, threading.RLock))
COMPILED = "OptimizedModule"  # what torch.compile wraps a module in
# A module's own record of being compiled, and of what watches it (a profiler, a summary).
FORGOTTEN = ("_compiled_call_impl",)


def duplicate(module: nn.Module, *, own_weights: bool = True) -> nn.Module:
    """A copy of a module that shares no state with it.

    Hooks and functions that close over parts of the module close over the copy's. What is no leaf of autograd's is
    copied without its history. Modules that torch.compile has wrapped come back as they were before. own_weights: False
    to let the copies share their parameters, which then nobody may write into. What cannot be copied at all (an open
    file, a handle of a library) is shared; `strays` names it.
    """
    return _copier(module, own_weights).copy(module)


def strays(module: nn.Module) -> list[str]:
    """The types of what a copy of a module shares with it, since it cannot be copied."""
    copier = _copier(module, own_weights=False)
    copier.copy(module)
    return list(dict.fromkeys(type(value).__name__ for value in copier.strays))


def _copier(module: nn.Module, own_weights: bool) -> _Copier:
    # What code reaches by a name outside of the module it finds there, not in the copy: it stays one for all.
    kept = [*variables(module).values(), *([] if own_weights else module.parameters())]
    parts = {id(child) for child in module.modules()}
    return _Copier({id(value): value for value in kept if id(value) not in parts})


class _Copier:
    """One copy in the making. made: what was copied already, by the original's id."""

    def __init__(self, made: dict[int, Any]) -> None:
        self.made = made
        self.strays: list[Any] = []
        self._alive: list[Any] = []  # an id is unique only as long as its object lives

    def copy(self, value: Any) -> Any:
        if isinstance(value, ATOMIC):
            return value
        if id(value) in self.made:
            return self.made[id(value)]
        self._alive.append(value)
        for kinds, make in self._kinds():
            if isinstance(value, kinds):
                return make(value)
        return self._object(value)

    def _kinds(self) -> Iterable[tuple[Any, Callable[[Any], Any]]]:
        return (
            (Tensor, self._tensor),
            (nn.Module, self._module),
            (types.MethodType, lambda v: self._keep(v, types.MethodType(self.copy(v.__func__), self.copy(v.__self__)))),
            (types.FunctionType, self._function),
            (functools.partial, self._partial),
            (dict, self._mapping),
            ((list, collections.deque), self._sequence),
            ((tuple, frozenset), self._fixed),
            (set, lambda v: self._keep(v, type(v)(self.copy(one) for one in v))),
            (LOCKS, lambda v: self._keep(v, type(v)() if type(v) is not LOCKS[0] else threading.Lock())),
            (threading.local, lambda v: self._keep(v, threading.local())),
            (weakref.ReferenceType, lambda v: v),
        )

    def _keep(self, value: Any, made: Any) -> Any:
        self.made[id(value)] = made
        return made

    def _tensor(self, tensor: Tensor) -> Tensor:
        if is_lazy(tensor) or tensor.is_meta:
            return self._keep(tensor, tensor)
        with torch.no_grad():
            made = tensor.detach().clone()
        if isinstance(tensor, nn.Parameter):
            made = nn.Parameter(made, tensor.requires_grad and (made.is_floating_point() or made.is_complex()))
        elif isinstance(tensor, nn.Buffer):
            made = nn.Buffer(made, persistent=getattr(tensor, "persistent", True))
        elif tensor.is_leaf and tensor.requires_grad:
            made.requires_grad_()
        return self._keep(tensor, made)

    def _module(self, module: nn.Module) -> nn.Module:
        if type(module).__name__ == COMPILED and isinstance(getattr(module, "_orig_mod", None), nn.Module):
            return self._keep(module, self.copy(module._orig_mod))
        if hasattr(type(module), "__deepcopy__"):  # it knows better (a graph of torch.fx)
            return self._by_library(module)
        made = self._keep(module, object.__new__(type(module)))
        content = {name: self.copy(v) for name, v in module.__dict__.items() if name not in FORGOTTEN}
        made.__dict__.update(content)
        # What a class keeps for all of its modules, each copy keeps for itself.
        for kind in reversed(type(module).__mro__[: -len(nn.Module.__mro__)]):
            for name, value in vars(kind).items():
                if isinstance(value, (dict, list, set, collections.deque, Tensor)) and not name.startswith("__"):
                    made.__dict__.setdefault(name, self.copy(value))
        return made

    def _function(self, function: types.FunctionType) -> types.FunctionType:
        """A function whose closure holds copies; itself where there is nothing in it to copy."""
        if not function.__closure__ and not function.__dict__ and not function.__defaults__:
            return function
        cells = tuple(types.CellType() for _ in function.__closure__ or ())
        made = types.FunctionType(
            function.__code__, function.__globals__, function.__name__, None, cells if function.__closure__ else None
        )
        self._keep(function, made)
        for cell, old in zip(cells, function.__closure__ or (), strict=True):
            try:
                cell.cell_contents = self._cell(old)
            except ValueError:  # a variable that has no value yet
                continue
        made.__defaults__ = self.copy(function.__defaults__)
        made.__kwdefaults__ = self.copy(function.__kwdefaults__)
        made.__qualname__, made.__module__, made.__doc__ = function.__qualname__, function.__module__, function.__doc__
        made.__dict__.update({name: self.copy(value) for name, value in function.__dict__.items()})
        return made

    def _cell(self, cell: types.CellType) -> Any:
        return self.copy(cell.cell_contents)

    def _partial(self, value: functools.partial) -> functools.partial:
        keywords = {name: self.copy(v) for name, v in value.keywords.items()}
        return self._keep(value, functools.partial(self.copy(value.func), *map(self.copy, value.args), **keywords))

    def _mapping(self, value: dict) -> dict:
        try:
            made = self._keep(value, copy.copy(value))  # of its own type, with its default factory
            made.clear()
        except Exception:  # whatever a library's dictionary has to say
            return self._by_library(value)
        for key, one in value.items():
            made[self.copy(key)] = self.copy(one)
        if hasattr(value, "__dict__"):
            made.__dict__.update({name: self.copy(v) for name, v in vars(value).items()})
        return made

    def _sequence(self, value: Any) -> Any:
        made = self._keep(value, copy.copy(value))
        made.clear()
        made.extend(self.copy(one) for one in value)
        return made

    def _fixed(self, value: Any) -> Any:
        inside = [self.copy(one) for one in value]
        if all(one is other for one, other in zip(inside, value, strict=True)):
            return self._keep(value, value)
        return self._keep(value, type(value)(*inside) if hasattr(value, "_fields") else type(value)(inside))

    def _object(self, value: Any) -> Any:
        """Any other object: by what its attributes hold, where that is all there is to it."""
        kind = type(value)
        ways = ("__reduce_ex__", "__reduce__", "__getstate__")
        own = any(getattr(kind, way) is not getattr(object, way) for way in ways)
        if own or hasattr(kind, "__deepcopy__") or hasattr(kind, "__slots__") or not hasattr(value, "__dict__"):
            return self._by_library(value)
        try:
            made = self._keep(value, object.__new__(kind))
        except TypeError:
            return self._by_library(value)
        made.__dict__.update({name: self.copy(v) for name, v in vars(value).items()})
        return made

    def _by_library(self, value: Any) -> Any:
        """As `copy.deepcopy` does it; what that refuses is shared."""
        try:
            return self._keep(value, copy.deepcopy(value, dict(self.made)))
        except Exception:  # pickling protocols raise every kind of error
            self.strays.append(value)
            return self._keep(value, value)
