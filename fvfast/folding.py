"""Batch-norms folded into the convolutions before them, in copies of a network, and where that goes wrong."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_weights

from fvfast.agreement import seen
from fvfast.copies import duplicate
from fvfast.distances import distance
from fvfast.errors import is_out_of_memory
from fvfast.habits import seeded
from fvfast.layers import UNFOLDED, Layer, Layers, Tap
from fvfast.tracing import watched

# Folding changes the order of roundings only: at most 2e-6 at the logits of 13 networks (torchvision, random weights).
FOLD_TOLERANCE = 1e-3


def _convolves(module: nn.Module) -> bool:
    return any(isinstance(child, nn.Conv2d) for child in module.modules())


def laid_out(module: nn.Module) -> nn.Module:
    if _convolves(module):
        # Those of planes only: `module.to` stumbles over kernels of volumes beside them.
        module._apply(lambda t: t.contiguous(memory_format=torch.channels_last) if t.dim() == 4 else t)
    return module


def fold(
    given: nn.Module, plain: nn.Module, layers: Mapping[str, Layer], wanted: Collection[str], size: int, inputs: int = 3
) -> tuple[nn.Module, frozenset[str], frozenset[str]]:
    """A copy with every batch-norm folded whose input is a convolution's output, where that shows, and where `plain`,
    which it is a copy of, is not like `given` either.

    Pairs are found by running the network, not by tracing its code, so any network will do; a convolution whose
    output goes elsewhere too is folded wrongly, so the wanted layers are compared before and after.
    """
    parameter = next(plain.parameters(), torch.zeros(()))
    image = torch.randn(1, inputs, size, size, generator=torch.Generator().manual_seed(0)).to(parameter.device)
    own = isinstance(layers, Layers) and layers.habits.rewrites
    folded = duplicate(plain, own_weights=own)
    with seeded(0):
        pairs = _pairs(duplicate(given, own_weights=own), image.clone())
    for conv_name, norm_name in pairs:
        conv, norm = folded.get_submodule(conv_name), folded.get_submodule(norm_name)
        assert isinstance(conv, nn.Conv2d)
        assert isinstance(norm, nn.BatchNorm2d)
        assert norm.running_mean is not None
        assert norm.running_var is not None
        weight, bias = fuse_conv_bn_weights(
            conv.weight, conv.bias, norm.running_mean, norm.running_var, norm.eps, norm.weight, norm.bias
        )
        if conv_name in wanted:
            setattr(conv, UNFOLDED, duplicate(conv, own_weights=False))
        conv.weight, conv.bias = weight, bias
        parent, _, leaf = norm_name.rpartition(".")
        setattr(folded.get_submodule(parent), leaf, nn.Identity())
    right = seen(Tap(duplicate(given, own_weights=own), layers, wanted, channels=inputs), image, wanted)
    laid_out(folded)
    # As it will run: with channels last, which not every network's own code takes (`y.view(len(y), -1)`).
    laid = image.contiguous(memory_format=torch.channels_last) if _convolves(plain) else image
    unlike: list[frozenset[str]] = []
    for network in (folded, plain):
        try:
            now = seen(Tap(duplicate(network, own_weights=own), layers, wanted), laid.clone(), wanted)
        except Exception as error:  # networks refuse what they do not know with every kind of exception
            if is_out_of_memory(error):
                raise
            unlike.append(frozenset(wanted))
        else:
            pairs = zip(wanted, now, right, strict=True)
            unlike.append(frozenset(name for name, a, b in pairs if not distance(a, b) < FOLD_TOLERANCE))
    return folded, unlike[0], unlike[1]


def _pairs(module: nn.Module, image: Tensor) -> list[tuple[str, str]]:
    """The names of every (convolution, batch-norm) that follow each other and run once in a whole forward pass."""
    produced: dict[int, str] = {}
    kept: list[Any] = []  # an id is unique only as long as its tensor lives
    pairs: list[tuple[str, str]] = []
    runs: dict[str, int] = {}

    def after(name: str, child: nn.Module, inputs: tuple[Tensor, ...], output: Any) -> None:
        runs[name] = runs.get(name, 0) + 1
        if isinstance(child, nn.Conv2d):
            produced[id(output)] = name
            kept.append(output)
        elif inputs and id(inputs[0]) in produced:
            pairs.append((produced[id(inputs[0])], name))

    watched(module, image, after, lambda child: _is_plain_convolution(child) or _is_plain_norm(child))
    uses = Counter(conv for conv, _ in pairs)
    return [(conv, norm) for conv, norm in pairs if uses[conv] == runs[conv] == runs[norm] == 1]


def _is_plain_convolution(module: nn.Module) -> bool:
    """Whether a module's weights are its own to change: not made anew in every pass (weight_norm, pruning)."""
    own = isinstance(module, nn.Conv2d) and isinstance(vars(module)["_parameters"].get("weight"), nn.Parameter)
    return own and not module._forward_pre_hooks and not hasattr(module, "parametrizations")


def _is_plain_norm(module: nn.Module) -> bool:
    """Whether a module is a batch-norm and no more: subclasses may hold an activation too."""
    return (
        isinstance(module, nn.BatchNorm2d)
        and type(module).forward is nn.BatchNorm2d.forward
        and module.running_mean is not None
    )
