"""`lucent.optvis.param.cppn`: an image as a small network of coordinates (Stanley 2007; Mordvintsev et al. 2018)."""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Callable, Iterator

import torch
from torch import Tensor, nn

from fvfast.compat.lucent.optvis.param.spatial import default_device


class CompositeActivation(nn.Module):
    """The arctangent and its square, each about as large as a normal deviate: [B, C, ...] to [B, 2 C, ...]."""

    def forward(self, x: Tensor) -> Tensor:
        x = torch.atan(x)
        return torch.cat([x / 0.67, x.square() / 0.6], 1)


def cppn(
    size: int,
    num_output_channels: int = 3,
    num_hidden_channels: int = 24,
    num_layers: int = 8,
    activation_fn: Callable[[], nn.Module] = CompositeActivation,
    normalize: bool = False,
) -> tuple[Iterator[nn.Parameter], Callable[[], Tensor]]:
    """One image of `size` pixels, painted by 1x1 convolutions of its rows and columns; it starts grey.

    activation_fn: makes a module that doubles the channels. normalize: an instance norm after each convolution.
    """
    edge = math.sqrt(3)  # coordinates of variance 1
    line = torch.linspace(-edge, edge, size)
    coordinates = torch.stack(torch.meshgrid(line, line, indexing="ij"))[None].to(default_device())
    layers: OrderedDict[str, nn.Module] = OrderedDict()
    before = 2
    for index in range(num_layers):
        last = index == num_layers - 1
        after = num_output_channels if last else num_hidden_channels
        layers[f"conv{index}"] = nn.Conv2d(before, after, 1)
        if normalize:
            layers[f"norm{index}"] = nn.InstanceNorm2d(after)
        layers["output" if last else f"actv{index}"] = nn.Sigmoid() if last else activation_fn()
        before = 2 * after
    net = nn.Sequential(layers).to(default_device())
    convolutions = [child for child in net if isinstance(child, nn.Conv2d)]
    for convolution in convolutions:
        nn.init.normal_(convolution.weight, 0, math.sqrt(1 / convolution.in_channels))
        if convolution.bias is not None:
            nn.init.zeros_(convolution.bias)
    nn.init.zeros_(convolutions[-1].weight)
    return net.parameters(), lambda: net(coordinates)
