"""A stem that takes four channels: the fourth is zero, and makes every half-precision pixel one 8-byte word."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from fvfast.layers import Layer, Tap
from fvfast.tracing import watched

# A zero channel adds zeros to sums; another algorithm may still be chosen for four channels than for three.
TOLERANCE = 1e-3


def widen(module: nn.Module, layers: Mapping[str, Layer], wanted: list[str], size: int) -> bool:
    """Give the first convolution a fourth input channel with zero weights, in place, where the network allows it.

    It does where that convolution sees the image itself (or the image padded) and nothing else looks at the
    channels. The wanted layers are compared before and after; returns False, with the module as it was, where they
    differ or the network objects.
    """
    parameter = next(module.parameters(), torch.zeros(()))
    image = torch.randn(1, 3, size, size, generator=torch.Generator().manual_seed(0)).to(parameter)
    stem = _first_convolution(module, image)
    if stem is None:
        return False
    wide = torch.cat([image, torch.zeros_like(image[:, :1])], 1)
    with Tap(module, layers, wanted) as tap, torch.no_grad():
        before = tap(image)
        weight = stem.weight
        stem.weight = nn.Parameter(torch.cat([weight, torch.zeros_like(weight[:, :1])], 1), requires_grad=False)
        stem.in_channels = 4
        try:
            after = tap(wide)
            same = all((after[n] - before[n]).norm() <= TOLERANCE * before[n].norm() for n in wanted)
        except Exception:  # whatever a network raises at four channels, three are what it gets
            same = False
        if not same:
            stem.weight, stem.in_channels = weight, 3
    return same


def _first_convolution(module: nn.Module, image: Tensor) -> nn.Conv2d | None:
    """The convolution that runs first, if it takes three channels in one group."""
    seen: list[nn.Module] = []
    watched(module, image, lambda name, child, *_: seen.append(child), lambda child: isinstance(child, nn.Conv2d))
    if not seen or seen.count(seen[0]) > 1:
        return None
    first = seen[0]
    return first if isinstance(first, nn.Conv2d) and first.in_channels == 3 and first.groups == 1 else None
