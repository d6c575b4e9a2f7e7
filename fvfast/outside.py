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
from collections.abc import Iterator
from typing import Any

import torch
from torch import nn

# What never changes, or is the same for everyone by its nature.
ATOMIC: tuple[type, ...] = (
    type(None), bool, int, float, complex, str, bytes, range, slice, type, type(...), type(NotImplemented),
    types.ModuleType, types.BuiltinFunctionType, types.CodeType, property, staticmethod, classmethod,
    torch.dtype, torch.device, torch.layout, torch.memory_format, torch.Size, re.Pattern, logging.Logger,
)  # fmt: skip
# Libraries whose modules are known to keep nothing outside of themselves that one pass hands to another.
KNOWN = frozenset(("torch", "torchvision", "timm", "numpy", "einops", "efficientnet_lite_pytorch", "fvfast"))
WRITES = ("STORE_GLOBAL", "DELETE_GLOBAL")


def variables(module: nn.Module) -> dict[str, Any]:
    """What lies outside of a module that its code may change or find changed: values by the variables' names."""
    found: dict[str, Any] = {}
    seen: set[int] = set()
    for function, shared in _functions(module):
        found.update(_reached(function, shared, seen))
    return found


def itself(module: nn.Module) -> str:
    """The name of a variable outside of a module that holds the module, or a part of it; "" where none does."""
    parts = {id(child) for child in module.modules()}
    return next((name for name, value in variables(module).items() if id(value) in parts), "")


def foreign(module: nn.Module) -> bool:
    """Whether code runs in a module that is of none of the known libraries: classes of its own, or hooks."""
    return any(not _known(function.__module__ or "") for function, _ in _functions(module))


def _functions(module: nn.Module) -> Iterator[tuple[types.FunctionType, bool]]:
    """The functions that run when a module does, and whether all of its copies share them.

    They do share methods of their classes; of hooks, and what attributes hold, `copies.duplicate` makes new ones.
    """
    kinds: set[type] = set()
    for child in module.modules():
        kinds.update(kind for kind in type(child).__mro__ if not _known(kind.__module__))
        for value in _values(vars(child), 3):
            kinds.update(kind for kind in type(value).__mro__ if not _known(kind.__module__))
            yield from ((function, False) for function in _plain(value))
    for kind in kinds:
        for value in vars(kind).values():
            yield from ((function, True) for function in _plain(value))


def _values(value: Any, depth: int) -> Iterator[Any]:
    if isinstance(value, dict):
        for one in value.values():
            yield from _values(one, depth - 1) if depth else ()
    elif isinstance(value, (list, tuple)):
        for one in value:
            yield from _values(one, depth - 1) if depth else ()
    else:
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


def _reached(function: types.FunctionType, shared: bool, seen: set[int]) -> Iterator[tuple[str, Any]]:
    if id(function) in seen or _known(function.__module__ or ""):
        return
    seen.add(id(function))
    for code in _codes(function.__code__):
        yield from _read(code, function.__globals__, seen)
    for name, cell in zip(function.__code__.co_freevars, function.__closure__ or (), strict=True):
        value = _content(cell)
        for inner in _plain(value):
            yield from _reached(inner, shared, seen)
        if shared and _changes(value):  # a variable of a decorator, say
            yield name, value


def _read(code: types.CodeType, names: dict[str, Any], seen: set[int]) -> Iterator[tuple[str, Any]]:
    instructions = list(dis.get_instructions(code))
    writes = any(one.opname == "STORE_ATTR" for one in instructions)
    for one in instructions:
        name = one.argval
        if one.opname in WRITES:
            yield str(name), None
        if writes and name in ("type", "__class__") and one.opname in ("LOAD_GLOBAL", "LOAD_ATTR"):
            yield "an attribute of a class", None
        if one.opname not in ("LOAD_GLOBAL", "LOAD_NAME") or name not in names:
            continue
        value = names[name]
        if isinstance(value, type):
            # A class is written to by its name (`Net.count += 1`), or holds what changes.
            if not _known(value.__module__) and (writes or any(map(_changes, vars(value).values()))):
                yield str(name), value
        elif called := list(_plain(value)):
            for inner in called:
                yield from _reached(inner, True, seen)
        elif _changes(value):
            yield str(name), value


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


def _changes(value: Any) -> bool:
    """Whether a value may change: containers, tensors, modules and objects, but no function, number or constant."""
    if isinstance(value, (*ATOMIC, enum.Enum, types.FunctionType, types.MethodType, functools.partial)):
        return False
    if isinstance(value, (tuple, frozenset)):
        return any(map(_changes, value))
    if isinstance(value, (types.GetSetDescriptorType, types.MemberDescriptorType)):  # of every class
        return False
    return not callable(value) or isinstance(value, nn.Module)


def _known(module: str) -> bool:
    library = module.partition(".")[0]
    return library in KNOWN or library in sys.stdlib_module_names
