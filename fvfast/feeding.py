"""What a network is fed with besides the image, and how its layers' outputs lie: checked where it is handed over."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from fvfast.arguments import shown
from fvfast.errors import FvfastError, did_you_mean

AXES = "BCHWTDL"


def wants(module: nn.Module) -> list[str]:
    """The names of what a network's forward must be given besides its first input, in order."""
    variadic = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    parameters = _parameters(module)[1:]
    return [p.name for p in parameters if p.default is p.empty and p.kind not in variadic]


def _parameters(module: nn.Module) -> list[inspect.Parameter]:
    try:
        return list(inspect.signature(module.forward).parameters.values())
    except (TypeError, ValueError):  # written in C
        return []


def further_inputs(module: nn.Module, inputs: Any) -> Mapping[str, Any] | tuple[Any, ...]:
    """Inputs besides the image: by name, or in their order after it. Raises FvfastError where forward takes others."""
    given: dict[str, Any] | tuple[Any, ...]
    if isinstance(inputs, Mapping):
        given = {_name(key): _value(f"inputs[{key!r}]", value) for key, value in inputs.items()}
    elif isinstance(inputs, (tuple, list)):
        given = tuple(_value(f"inputs[{at}]", value) for at, value in enumerate(inputs))
    else:
        wanted = (wants(module) or ["name"])[0]
        raise FvfastError(
            f'inputs must be a dictionary such as {{"{wanted}": tensor}}, or a tuple, not {shown(inputs)}'
        )
    parameters = _parameters(module)
    if not given or not parameters:
        return given
    kind = type(module).__name__
    named = [p.name for p in parameters[1:] if p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)]
    if isinstance(given, dict):
        if parameters[0].name in given and not parameters[0].kind == inspect.Parameter.VAR_POSITIONAL:
            raise FvfastError(f"{parameters[0].name!r} is the image itself: leave it out of inputs")
        anything = any(p.kind == p.VAR_KEYWORD for p in parameters)
        strange = [] if anything else [name for name in given if name not in named]
        if strange:
            known = did_you_mean(strange[0], named) or (f"; there are {', '.join(named)}" if named else "")
            raise FvfastError(f"{kind}.forward takes no {strange[0]!r}{known}")
        missing = [name for name in wants(module) if name not in given]
    else:
        ordered = [p.name for p in parameters[1:] if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
        if len(given) > len(ordered) and not any(p.kind == p.VAR_POSITIONAL for p in parameters):
            raise FvfastError(f"{kind}.forward takes {len(ordered)} inputs after the image, not {len(given)}")
        missing = [name for name in wants(module) if name not in ordered[: len(given)]]
    if missing:
        raise FvfastError(f"{kind}.forward wants {', '.join(missing)} too: add it to inputs")
    return given


def _name(key: Any) -> str:
    if not isinstance(key, str) or not key.isidentifier():
        raise FvfastError(f"inputs go by the names of forward's parameters, not {shown(key)}")
    return key


def _value(where: str, value: Any) -> Any:
    """A value that can be told apart from others by its content: tensors are cut off from what they were made by."""
    if isinstance(value, Tensor):
        if value.is_meta:
            raise FvfastError(f"{where} is on the device meta and holds no numbers")
        return value.detach()
    if isinstance(value, (np.ndarray, np.generic)) and value.dtype.kind in "biufc":
        return torch.as_tensor(value)
    if value is None or isinstance(value, (bool, int, float, complex, str)):
        return value
    if isinstance(value, Mapping):
        return {key: _value(f"{where}[{key!r}]", one) for key, one in value.items()}
    if isinstance(value, (list, tuple)) and type(value) in (list, tuple):
        return type(value)([_value(f"{where}[{at}]", one) for at, one in enumerate(value)])
    raise FvfastError(
        f"{where} must be a tensor, a number, a string, or a list, tuple or dictionary, not {shown(value)}"
    )


def layouts(module: nn.Module, given: Any) -> dict[str, str]:
    """What each axis of a layer's output is, by the layer's name: "BHWC". Raises FvfastError."""
    if not isinstance(given, Mapping):
        raise FvfastError(f'layouts must be a dictionary such as {{"features.1": "BHWC"}}, not {shown(given)}')
    known = [name for name, _ in module.named_modules() if name]
    for name, layout in given.items():
        if name not in known and name != "logits":
            near = did_you_mean(name, known) if isinstance(name, str) else ""
            raise FvfastError(f"layouts: {type(module).__name__} has no layer {shown(name)}{near}")
        whole = isinstance(layout, str) and set(layout) <= set(AXES) and len(set(layout)) == len(layout)
        if not whole or "B" not in layout or "C" not in layout:
            raise FvfastError(
                f"layouts: the axes of {name!r} are letters such as 'BHWC', B and C and what else there is of "
                f"{', '.join(AXES[2:])}, each once, not {shown(layout)}"
            )
    return dict(given)
