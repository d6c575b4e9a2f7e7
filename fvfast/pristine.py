"""The network as its user gave it: a copy in eval mode and float32, which is what everything else is compared with."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from fvfast import outside
from fvfast.copies import duplicate
from fvfast.errors import FvfastError


def pristine(module: nn.Module, device: torch.device, inputs: Mapping[str, Any] | tuple[Any, ...] = ()) -> nn.Module:
    """A copy in eval mode on `device`, in float32 (complex weights: in complex64).

    inputs: what the network takes besides the image, by position or by name (`Model.inputs`). Never run it: a pass may
    leave something behind; run a `duplicate` of it. Raises FvfastError where no copy would be the network.
    """
    if itself := outside.read(module).itself(module):
        raise FvfastError(
            f"the network's code names the network itself in the variable {itself!r}, so no copy of it can be "
            "rendered: let hooks use the module that they are given"
        )
    copied = in_type(duplicate(module).eval().requires_grad_(False), torch.float32, device)
    if inputs:
        copied.register_forward_pre_hook(Besides(inputs, device), with_kwargs=True)
    return copied


def in_type(module: nn.Module, dtype: torch.dtype, device: torch.device | None = None) -> nn.Module:
    """The module itself with its floating-point weights in a type. Complex ones stay complex: no half is lost."""

    def brought(tensor: Tensor) -> Tensor:
        kind = dtype if tensor.is_floating_point() else torch.complex64 if tensor.is_complex() else tensor.dtype
        return tensor.to(device or tensor.device, kind)

    module._apply(brought)
    for child in module.modules():  # constants that are no buffers; others of float64 would make all that follows so
        for name, value in vars(child).items():
            if isinstance(value, Tensor) and value.dtype in (torch.float64, torch.complex128):
                vars(child)[name] = brought(value)
    return module


class Besides:
    """Hands a network what it takes besides the image, as many times as there are images where it is there once."""

    def __init__(self, inputs: Mapping[str, Any] | tuple[Any, ...], device: torch.device) -> None:
        self.named = {name: _on(value, device) for name, value in inputs.items()} if isinstance(inputs, Mapping) else {}
        self.listed = () if isinstance(inputs, Mapping) else tuple(_on(value, device) for value in inputs)

    def __call__(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, Any]:
        image, *more = args
        listed = (_for(value, image) for value in self.listed)
        named = {name: _for(value, image) for name, value in self.named.items()}
        return (image, *more, *listed), {**named, **kwargs}


def _on(value: Any, device: torch.device) -> Any:
    return value.detach().to(device) if isinstance(value, Tensor) else value


def _for(value: Any, image: Tensor) -> Any:
    """A value for as many images as there are; in the image's type."""
    if not isinstance(value, Tensor):
        return value
    if value.is_floating_point():
        value = value.to(image.dtype)
    if value.dim() and len(value) == 1 and len(image) > 1:
        return value.expand(len(image), *value.shape[1:])
    return value
