"""What is asked for as a target in Python, in whatever form: written, as an objective, or as a part of the network."""

from __future__ import annotations

import inspect
from typing import Any

from torch import Tensor, nn

from fvfast.arguments import is_flag, is_many, is_number, shown
from fvfast.errors import FvfastError
from fvfast.expressions import Objective
from fvfast.objectives import Channel, WholeLayer
from fvfast.wrapping import unwrapped

# A pair names a channel: ("features.3", 5).
Target = str | Objective | nn.Module | tuple[str | nn.Module, int]

WRITE = "write 'LAYER:CHANNEL', or take one of fvfast.objectives"


def chosen(target: Any, network: nn.Module) -> list[str | Objective]:
    """The targets that are meant, one or many, as written ones and objectives. Raises FvfastError."""
    if _is_one(target):
        return [_one(target, network)]
    if isinstance(target, (set, frozenset, Tensor, type)) or not is_many(target):
        raise FvfastError(f"{_what(target)} is no target: {_cure(target)}")
    found = [_one(one, network) for one in target]
    if not found:
        raise FvfastError("name at least one target")
    return found


def _is_one(target: Any) -> bool:
    return isinstance(target, (str, Objective, nn.Module)) or callable(target) or _is_pair(target)


def _is_pair(target: Any) -> bool:
    """Whether a target is a layer and a channel; two strings are two targets."""
    if not isinstance(target, tuple) or len(target) != 2 or not isinstance(target[0], (str, nn.Module)):
        return False
    return is_number(target[1]) or is_flag(target[1])


def _one(target: Any, network: nn.Module) -> str | Objective:
    if isinstance(target, (str, Objective)):
        return target
    if isinstance(target, nn.Module):
        return WholeLayer(_name(target, network))
    if _is_pair(target):
        layer, channel = target
        return Channel(_name(layer, network) if isinstance(layer, nn.Module) else layer, channel)
    raise FvfastError(f"{_what(target)} is no target: {_cure(target)}")


def _name(part: nn.Module, network: nn.Module) -> str:
    """The name of a part of the network that is given as a module."""
    wanted = unwrapped(part)
    if wanted is unwrapped(network):
        raise FvfastError("the network itself is no target: name a layer of it, or a class as logits:INDEX")
    for name, child in network.named_modules():
        if child is wanted or child is part:
            return name
    raise FvfastError(f"this {type(part).__name__} is no part of the network that is rendered: name the layer instead")


def _what(target: Any) -> str:
    if inspect.isroutine(target):
        return "a function"
    if isinstance(target, Tensor):
        return f"a tensor of shape {list(target.shape)}"
    return shown(target)


def _cure(target: Any) -> str:
    if inspect.isroutine(target):
        return f"{WRITE}; fvfast.compat.lucent renders functions as lucent does"
    if isinstance(target, Tensor):
        return "a direction in a layer is fvfast.objectives.direction(LAYER, tensor)"
    if isinstance(target, (set, frozenset)):
        return "a set has no order, give a list"
    if type(target).__module__.startswith("fvfast.compat"):
        return "what fvfast.compat.lucent makes is rendered by its own render_vis"
    return WRITE
