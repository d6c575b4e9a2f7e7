"""Make a network fast to differentiate with respect to its image: a private copy, changed in form, not in value."""

from __future__ import annotations

import copy
from collections.abc import Collection, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_weights

from fvfast.layers import Layer, Tap

# Folding changes the order of roundings only. Measured on 12 torchvision networks: 2e-7 to 4e-6.
FOLD_TOLERANCE = 1e-3


def pristine(module: nn.Module, device: torch.device) -> nn.Module:
    """A copy in eval mode on `device`, in float32: what the final objective is evaluated with."""
    return copy.deepcopy(module).eval().requires_grad_(False).to(device, torch.float32)


def prepare(
    module: nn.Module, layers: Mapping[str, Layer], wanted: Collection[str], size: int, dtype: torch.dtype
) -> nn.Module:
    """A copy of a `pristine` module for the hot loop, with the same outputs at the layers `wanted`.

    Weights are frozen (no weight gradients), batch-norms folded into the convolutions before them, in-place
    operations made out-of-place, memory laid out channels-last, and everything cast to `dtype`.
    size: the input size in pixels at which the layers were traced.
    """
    fast = copy.deepcopy(module)
    for child in fast.modules():
        if getattr(child, "inplace", False) is True:
            setattr(child, "inplace", False)  # noqa: B010 (nn.Module types its attributes as tensors and modules)
    fast = _fold(fast, layers, wanted, size)
    if any(isinstance(child, nn.Conv2d) for child in fast.modules()):
        fast = fast.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
    return fast.requires_grad_(False).to(dtype=dtype)


def _fold(module: nn.Module, layers: Mapping[str, Layer], wanted: Collection[str], size: int) -> nn.Module:
    """Fold every batch-norm whose input is a convolution's output. Keeps the module as it is where that shows.

    Pairs are found by running the network, not by tracing its code, so any network will do; a convolution whose
    output goes elsewhere too would be folded wrongly, so the wanted layers are compared before and after.
    """
    parameter = next(module.parameters(), torch.zeros(()))
    image = torch.randn(1, 3, size, size, generator=torch.Generator().manual_seed(0)).to(parameter)
    before, pairs = _run_and_pair(module, layers, wanted, image)
    pairs = [(conv, norm) for conv, norm in pairs if conv not in wanted]
    if not pairs:
        return module
    folded = copy.deepcopy(module)
    for conv_name, norm_name in pairs:
        conv, norm = folded.get_submodule(conv_name), folded.get_submodule(norm_name)
        assert isinstance(conv, nn.Conv2d)
        assert isinstance(norm, nn.BatchNorm2d)
        assert norm.running_mean is not None
        assert norm.running_var is not None
        weight, bias = fuse_conv_bn_weights(
            conv.weight, conv.bias, norm.running_mean, norm.running_var, norm.eps, norm.weight, norm.bias
        )
        conv.weight, conv.bias = weight, bias
        parent, _, leaf = norm_name.rpartition(".")
        setattr(folded.get_submodule(parent), leaf, nn.Identity())
    with Tap(folded, layers, wanted) as tap, torch.no_grad():
        after = tap(image)
    same = all(_relative_error(after[name], before[name]) < FOLD_TOLERANCE for name in wanted)
    return folded if same else module


def _run_and_pair(
    module: nn.Module, layers: Mapping[str, Layer], wanted: Collection[str], image: Tensor
) -> tuple[dict[str, Tensor], list[tuple[str, str]]]:
    """The wanted outputs, and the names of (convolution, batch-norm) that follow each other and run once."""
    produced: dict[int, str] = {}
    kept: list[Tensor] = []  # an id is unique only as long as its tensor lives
    pairs: list[tuple[str, str]] = []
    runs: dict[str, int] = {}

    def after(name: str, child: nn.Module, inputs: tuple[Tensor, ...], output: Any) -> None:
        runs[name] = runs.get(name, 0) + 1
        if isinstance(child, nn.Conv2d):
            produced[id(output)] = name
            kept.append(output)
        elif id(inputs[0]) in produced:
            pairs.append((produced[id(inputs[0])], name))

    handles = [
        child.register_forward_hook(lambda m, i, o, name=name: after(name, m, i, o))
        for name, child in module.named_modules()
        if isinstance(child, nn.Conv2d) or (isinstance(child, nn.BatchNorm2d) and child.track_running_stats)
    ]
    try:
        with Tap(module, layers, wanted) as tap, torch.no_grad():
            outputs = tap(image)
    finally:
        for handle in handles:
            handle.remove()
    return outputs, [(conv, norm) for conv, norm in pairs if runs[conv] == runs[norm] == 1]


def _relative_error(value: Tensor, reference: Tensor) -> float:
    scale = reference.norm()
    return float((value - reference).norm() / scale) if scale > 0 else float(value.norm())
