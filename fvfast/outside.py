"""What a network's code can reach that lies outside of the network: variables of its modules and classes.

No copy of a network has these for itself. A network whose code reads or writes such a variable that may change (a list
in which its hooks gather outputs, say) must not run twice at a time. Found by reading the code, not by running it: what
is gathered and cleared within one pass leaves no trace.
"""

from __future__ import annotations

import dis
import enum
import functools
import logging
import re
import sys
import types
import weakref
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

# What never changes, or is the same for everyone by its nature.
ATOMIC: tuple[type, ...] = (
    type(None), bool, int, float, complex, str, bytes, range, slice, type, type(...), type(NotImplemented),
    types.ModuleType, types.BuiltinFunctionType, types.CodeType, property, staticmethod, classmethod, enum.Enum,
    torch.dtype, torch.device, torch.layout, torch.memory_format, torch.Size, re.Pattern, logging.Logger,
)  # fmt: skip
# Libraries whose modules are known to keep nothing outside of themselves that one pass hands to another.
KNOWN = frozenset(("torch", "torchvision", "timm", "numpy", "einops", "efficientnet_lite_pytorch", "fvfast"))
WRITES = ("STORE_GLOBAL", "DELETE_GLOBAL")
GETS = ("LOAD_ATTR", "LOAD_METHOD")
# By which code gets at variables that it does not name.
DOORS = ("globals", "vars", "setattr", "delattr", "exec", "eval")


@dataclass
class Outside:
    """What was read of a module's code.

    variables: what lies outside of the module that its code may change or find changed, by the variables' names.
    cells: the variables that functions of its classes close over, which all of its copies share. foreign: whether code
    runs in it that is of none of the known libraries: classes of its own, or hooks.
    """

    variables: dict[str, Any]
    cells: list[types.CellType]
    foreign: bool
    strays: list[str] = field(default_factory=list)  # types of what cannot be copied, once it was tried

    def itself(self, module: nn.Module) -> str:
        """The name of a variable that holds the module, or a part of it; "" where none does."""
        parts = {id(child) for child in module.modules()}
        return next((name for name, value in self.variables.items() if id(value) in parts), "")


_read: weakref.WeakKeyDictionary[nn.Module, Outside] = weakref.WeakKeyDictionary()


def read(module: nn.Module) -> Outside:
    """Read a module's code; of a copy, what was read of its original."""
    if module in _read:
        return _read[module]
    functions = list(_functions(module))
    cells = [cell for function, everyones in functions if everyones for cell in function.__closure__ or ()]
    seen, shared = _Reading(), {id(cell) for cell in cells}
    for kind in _kinds(module):
        seen.found.update({f"{kind.__name__}.{name}": v for name, v in _own(kind) if _changes(v)})
    for function, everyones in functions:
        seen.function(function, everyones, shared)
    return Outside(seen.found, cells, any(not _known(function.__module__ or "") for function, _ in functions))


def remember(copy: nn.Module, found: Outside) -> None:
    """Have the same be read of a copy, which nobody gives other code, as of its original."""
    _read[copy] = found


# What there is to read ---------------------------------------------------------------------------------------


def _functions(module: nn.Module) -> Iterator[tuple[types.FunctionType, bool]]:
    """The functions that run when a module does, and whether all of its copies share them.

    They do share methods of their classes; of hooks, and what attributes hold, `copies.duplicate` makes new ones.
    """
    for child in module.modules():
        for value in _held(child):
            yield from ((function, False) for function in _plain(value))
    for kind in _kinds(module):
        for _, value in _own(kind):
            yield from ((function, True) for function in _plain(value))


def _kinds(module: nn.Module) -> list[type]:
    """The classes of a module's parts and of what they hold, of none of the known libraries."""
    types_held = {type(value) for child in module.modules() for value in (child, *_held(child))}
    found = {kind: None for held in types_held for kind in held.__mro__ if not _known(kind.__module__)}
    return sorted(found, key=lambda kind: (kind.__module__, kind.__qualname__))


def _own(kind: type) -> Iterator[tuple[str, Any]]:
    """What a class itself has, but for what Python keeps there and what only shows or compares objects."""
    for name, value in vars(kind).items():
        runs = name in ("__call__", "__getattr__", "__getitem__", "__enter__", "__exit__") or not name.startswith("__")
        if runs and name != "_abc_impl":
            yield name, value


def _held(module: nn.Module) -> Iterator[Any]:
    """What a module holds itself, and in containers, but for its parts, its weights and plain values."""
    for name, value in vars(module).items():
        if name not in ("_parameters", "_buffers", "_modules") and not isinstance(value, (bool, int, float, str)):
            yield from _values(value, 3)


def _values(value: Any, depth: int) -> Iterator[Any]:
    if isinstance(value, dict):
        for one in value.values():
            yield from _values(one, depth - 1) if depth else ()
    elif isinstance(value, (list, tuple)):
        for one in value:
            yield from _values(one, depth - 1) if depth else ()
    elif value is not None:
        yield value


def _plain(value: Any) -> Iterator[types.FunctionType]:
    """The functions that calling a value runs."""
    if isinstance(value, (staticmethod, classmethod, types.MethodType)):
        value = value.__func__
    if isinstance(value, property):
        yield from (part for part in (value.fget, value.fset) if isinstance(part, types.FunctionType))
    elif isinstance(value, functools.partial):
        yield from _plain(value.func)
    elif isinstance(value, types.FunctionType):
        yield value
    elif not isinstance(value, type) and isinstance(getattr(value, "__wrapped__", None), types.FunctionType):
        yield value.__wrapped__


# Reading it --------------------------------------------------------------------------------------------------


class _Reading:
    """Code as it is read. found: the variables that may change, by name."""

    def __init__(self) -> None:
        self.found: dict[str, Any] = {}
        self._seen: set[int] = set()

    def function(self, function: types.FunctionType, everyones: bool, shared: set[int]) -> None:
        """Read a function. everyones: whether all copies share it; shared: the ids of the cells that they share."""
        if id(function) in self._seen or _known(function.__module__ or ""):
            return
        self._seen.add(id(function))
        if everyones:
            kept = [*(function.__defaults__ or ()), *(function.__kwdefaults__ or {}).values(), *vars(function).values()]
            self.found.update({f"{function.__name__} keeps": one for one in kept if _changes(one)})
        written: set[str] = set()
        for code in _codes(function.__code__):
            written |= self._code(code, function.__globals__)
        for name, cell in zip(function.__code__.co_freevars, function.__closure__ or (), strict=True):
            value, ours = _content(cell), everyones or id(cell) in shared
            for inner in _plain(value):
                self.function(inner, everyones, shared)
            if ours and (_changes(value) or name in written):  # a variable of a decorator, say
                self.found[name] = value

    def _code(self, code: types.CodeType, names: dict[str, Any]) -> set[str]:
        """Read code; returns the variables of enclosing functions that it writes to."""
        steps = list(dis.get_instructions(code))
        stores = any(step.opname == "STORE_ATTR" for step in steps)
        for at, step in enumerate(steps):
            name = step.argval
            if step.opname in WRITES:
                self.found[str(name)] = None
            elif stores and name in ("type", "__class__") and step.opname in ("LOAD_GLOBAL", *GETS):
                self.found["an attribute of a class"] = None
            elif step.opname in ("LOAD_GLOBAL", "LOAD_NAME"):
                if name in names:
                    self._value(str(name), names[name], stores, [s.argval for s in _gets(steps[at + 1 :])])
                elif name in DOORS:
                    self.found[f"{name}()"] = None
        return {step.argval for step in steps if step.opname == "STORE_DEREF"}

    def _value(self, name: str, value: Any, stores: bool, gets: list[str]) -> None:
        """What a global name stands for. stores: whether its code sets attributes; gets: what is got of the value."""
        if isinstance(value, types.ModuleType):
            if not _known(value.__name__):
                if stores:
                    self.found[name] = None
                elif gets and hasattr(value, gets[0]):
                    self._value(f"{name}.{gets[0]}", getattr(value, gets[0]), stores, gets[1:])
        elif isinstance(value, type):
            if not _known(value.__module__):
                # A class is written to by its name (`Net.count += 1`), or holds what changes.
                if stores or any(_changes(v) for _, v in _own(value)):
                    self.found[name] = None
                for _, inner in _own(value):
                    for function in _plain(inner):
                        self.function(function, True, set())
        elif called := list(_plain(value)):
            for inner in called:
                self.function(inner, True, set())
        elif _changes(value):
            self.found[name] = value


def _gets(steps: list[dis.Instruction]) -> Iterator[dis.Instruction]:
    """The attributes that are got of what lies on top, one of the other."""
    for step in steps:
        if step.opname in GETS:
            yield step
        elif step.opname not in ("CACHE", "PUSH_NULL"):
            return


def _codes(code: types.CodeType) -> Iterator[types.CodeType]:
    yield code
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            yield from _codes(constant)


def _content(cell: types.CellType) -> Any:
    try:
        return cell.cell_contents
    except ValueError:
        return None


DESCRIPTORS = (types.GetSetDescriptorType, types.MemberDescriptorType, types.WrapperDescriptorType)


def _changes(value: Any) -> bool:
    """Whether a value may change: containers, tensors, modules and objects, but no function, number or constant."""
    if isinstance(value, (*ATOMIC, *DESCRIPTORS, types.FunctionType, types.MethodType, functools.partial)):
        return False
    if isinstance(value, (tuple, frozenset)):
        return any(map(_changes, value))
    return not callable(value) or isinstance(value, nn.Module)


def _known(module: str) -> bool:
    library = module.partition(".")[0]
    return library in KNOWN or library in sys.stdlib_module_names
