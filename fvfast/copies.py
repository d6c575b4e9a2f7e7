"""Copies of networks that share nothing which a forward pass may change, also of those that `copy.deepcopy` refuses.

A forward pass may leave things behind: on the module (`self.kept`), in a hook's closure, in a list of the class. Every
copy has these for itself, so that networks that run side by side, or one after the other, do not see each other's.
"""

from __future__ import annotations

import collections
import contextlib
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

from fvfast import outside
from fvfast.outside import ATOMIC

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
    found = outside.read(module)
    copier = _copier(module, own_weights, found)
    made = copier.copy(module)
    found.strays = list(dict.fromkeys(type(value).__name__ for value in copier.strays))
    outside.remember(made, found)
    return made


def strays(module: nn.Module) -> list[str]:
    """The types of what a copy of a module shares with it, since it cannot be copied."""
    return outside.read(duplicate(module, own_weights=False)).strays


def _copier(module: nn.Module, own_weights: bool, found: outside.Outside) -> _Copier:
    # What code reaches by a name outside of the module it finds there, not in the copy: it stays one for all.
    kept = [*found.variables.values(), *found.cells, *([] if own_weights else module.parameters())]
    parts: dict[int, Any] = {id(child): child for child in module.modules()}
    made = {id(value): value for value in kept if id(value) not in parts}
    # What is referred to weakly too: hooks by their handles, an object that keeps state for them.
    held = (value for child in module.modules() for value in vars(child).values())
    parts |= {id(value): value for value in held if not isinstance(value, (*ATOMIC, Tensor))}
    return _Copier(made, parts)


class _Copier:
    """One copy in the making.

    made: what was copied already, by the original's id; parts: what belongs to the module, likewise.
    """

    def __init__(self, made: dict[int, Any], parts: dict[int, Any]) -> None:
        self.made, self.parts = made, parts
        self.strays: list[Any] = []
        self._makers = tuple(self._kinds())
        self._how: dict[type, Callable[[Any], Any] | None] = {}  # by type: what makes copies; None for what needs none
        self._alive: list[Any] = []  # an id is unique only as long as its object lives

    def copy(self, value: Any) -> Any:
        kind = type(value)
        if kind not in self._how:
            self._how[kind] = self._maker(value)
        make = self._how[kind]
        if make is None:
            return value
        if id(value) in self.made:
            return self.made[id(value)]
        self._alive.append(value)
        return make(value)

    def _maker(self, value: Any) -> Callable[[Any], Any] | None:
        if type(value) in weakref.ProxyTypes:  # which passes itself off as what it stands for
            return self._proxy
        if isinstance(value, ATOMIC):
            return None
        return next((make for kinds, make in self._makers if isinstance(value, kinds)), self._object)

    def _kinds(self) -> Iterable[tuple[Any, Callable[[Any], Any]]]:
        return (
            (Tensor, self._tensor),
            (nn.Module, self._module),
            (types.MethodType, lambda v: self._keep(v, types.MethodType(self.copy(v.__func__), self.copy(v.__self__)))),
            (types.FunctionType, self._function),
            (types.CellType, self._cell),
            (functools.partial, self._partial),
            (dict, self._mapping),
            ((list, collections.deque), self._sequence),
            ((tuple, frozenset), self._fixed),
            (set, lambda v: self._keep(v, type(v)(self.copy(one) for one in v))),
            (LOCKS, lambda v: self._keep(v, threading.Lock() if type(v) is LOCKS[0] else threading.RLock())),
            (threading.local, lambda v: self._keep(v, _Local({name: self.copy(one) for name, one in vars(v).items()}))),
            (weakref.ReferenceType, self._reference),
            (weakref.WeakKeyDictionary, self._weakly_keyed),
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
            made = self._by_library(module)
            for mine, own in zip(made.modules(), module.modules(), strict=False):
                mine.training = own.training  # which such copies may forget
            return made
        made = self._keep(module, object.__new__(type(module)))
        made.__dict__.update({name: self.copy(v) for name, v in module.__dict__.items() if name not in FORGOTTEN})
        return made

    # Functions ---------------------------------------------------------------------------------------------

    def _function(self, function: types.FunctionType) -> Any:
        """A function whose closure and defaults are copies; itself where it has none."""
        if compiled := getattr(function, "_torchdynamo_orig_callable", None):
            return self._keep(function, self.copy(compiled))
        if not (function.__closure__ or function.__dict__ or function.__defaults__ or function.__kwdefaults__):
            return function
        # With the cells that its neighbours have too.
        cells = tuple(self.made.get(id(cell)) or self._new_cell(cell) for cell in function.__closure__ or ())
        made = types.FunctionType(function.__code__, function.__globals__, function.__name__, None, cells or None)
        self._keep(function, made)
        for cell in function.__closure__ or ():
            self._fill(cell)
        made.__defaults__, made.__kwdefaults__ = self.copy(function.__defaults__), self.copy(function.__kwdefaults__)
        made.__qualname__, made.__module__, made.__doc__ = function.__qualname__, function.__module__, function.__doc__
        made.__dict__.update({name: self.copy(value) for name, value in function.__dict__.items()})
        return made

    def _new_cell(self, cell: types.CellType) -> types.CellType:
        self._alive.append(cell)
        return self._keep(cell, types.CellType())

    def _cell(self, cell: types.CellType) -> types.CellType:
        made = self._new_cell(cell)
        self._fill(cell)
        return made

    def _fill(self, cell: types.CellType) -> None:
        made: types.CellType = self.made[id(cell)]
        with contextlib.suppress(ValueError):  # a variable that has no value yet
            content = cell.cell_contents
            if made is not cell and not _filled(made):
                made.cell_contents = content  # for what comes back here on its way
                made.cell_contents = self.copy(content)

    def _partial(self, value: functools.partial) -> functools.partial:
        keywords = {name: self.copy(v) for name, v in value.keywords.items()}
        return self._keep(value, functools.partial(self.copy(value.func), *map(self.copy, value.args), **keywords))

    # Containers --------------------------------------------------------------------------------------------

    def _mapping(self, value: dict) -> dict:
        if not value and type(value) in (dict, collections.OrderedDict):
            return self._keep(value, type(value)())
        try:
            made = self._keep(value, copy.copy(value))  # of its own type, with its default factory
            made.clear()
        except Exception:  # whatever a library's dictionary has to say
            return self._by_library(value)
        for key, one in value.items():
            made[self._key(key)] = self.copy(one)
        if hasattr(value, "__dict__"):
            made.__dict__.update({name: self.copy(v) for name, v in vars(value).items()})
        return made

    def _key(self, key: Any) -> Any:
        """A key; the id of one of the module's parts becomes that of the part's copy."""
        if type(key) is int and key in self.parts:
            return id(self.copy(self.parts[key]))
        return self.copy(key)

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

    # Weak references: to a part of the module they become such to its copy ----------------------------------

    def _reference(self, value: weakref.ReferenceType) -> weakref.ReferenceType:
        target = value()
        if isinstance(value, weakref.WeakMethod):
            owner = getattr(target, "__self__", None)
            if id(owner) in self.parts:
                return self._keep(value, weakref.WeakMethod(self.copy(target)))
        if id(target) in self.parts:
            return self._keep(value, weakref.ref(self.copy(target)))
        if target is not None:
            self.strays.append(target)  # which belongs to somebody else
        return self._keep(value, value)

    def _proxy(self, value: Any) -> Any:
        try:
            target = value.__init__.__self__
        except ReferenceError:  # it is no more
            return value
        return weakref.proxy(self.copy(target)) if id(target) in self.parts else value

    def _weakly_keyed(self, value: weakref.WeakKeyDictionary) -> weakref.WeakKeyDictionary:
        made = self._keep(value, weakref.WeakKeyDictionary())
        for key, one in value.items():
            made[self.copy(key) if id(key) in self.parts else key] = self.copy(one)
        return made

    # Any other object ----------------------------------------------------------------------------------------

    def _object(self, value: Any) -> Any:
        """An object by what its class says it is made of, as `copy.deepcopy` has it, but with its parts copied here."""
        if hasattr(type(value), "__deepcopy__"):
            return self._by_library(value)
        try:
            reduced: tuple[Any, ...] = (*value.__reduce_ex__(4), None, None, None)
            make, arguments, state, listed, keyed = reduced[:5]
            made = self._keep(value, make(*map(self.copy, arguments)))
        except Exception:  # pickling protocols raise every kind of error
            return self._by_library(value)
        if state is not None:
            self._restore(made, state)
        for one in listed or ():
            made.append(self.copy(one))
        for key, one in keyed or ():
            made[self._key(key)] = self.copy(one)
        return made

    def _restore(self, made: Any, state: Any) -> None:
        if hasattr(made, "__setstate__"):
            made.__setstate__(self.copy(state))
            return
        parts: tuple[Any, Any] = state if isinstance(state, tuple) and len(state) == 2 else (state, None)
        plain, slots = parts
        for name, one in (plain or {}).items():
            made.__dict__[name] = self.copy(one)
        for name, one in (slots or {}).items():
            setattr(made, name, self.copy(one))

    def _by_library(self, value: Any) -> Any:
        """As `copy.deepcopy` does it; what that refuses is shared."""
        try:
            return self._keep(value, copy.deepcopy(value, self.made))
        except Exception:
            self.strays.append(value)
            return self._keep(value, value)


class _Local(threading.local):
    """Values of a thread that every thread begins with: what the network's maker has set is there for its workers."""

    def __init__(self, values: dict[str, Any]) -> None:
        self.__dict__.update(values)


def _filled(cell: types.CellType) -> bool:
    try:
        return cell.cell_contents is not None or True
    except ValueError:
        return False
