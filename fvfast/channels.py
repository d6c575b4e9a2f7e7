"""How many channels the images of a network have, found out from the network itself."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

COLOURS = 3  # what most networks take, and all that was made for RGB
MOST = 16  # channels that are tried where no layer says how many it takes

# What a channel is normalised with where nothing is known of the data.
NEUTRAL_MEAN, NEUTRAL_STD = 0.5, 0.25


def taken(module: nn.Module, size: int) -> int | None:
    """How many channels of an image a network takes, or None where that does not show.

    The layer that runs first says so, whatever was registered first: a convolution, say, or a linear layer on flattened
    pixels. module: as `pristine` gives it; size: of a square image in pixels.
    """
    colours = _look(module, COLOURS, size)
    if colours.whole:
        return COLOURS
    said = None if colours.layer is None else _said_by(colours.layer, colours.given, colours.flat)
    if said is not None and said != COLOURS and (colours.flat or _look(module, said, size).passed):
        return said
    others = (count for count in range(1, MOST + 1) if count != COLOURS)
    return next((count for count in others if _look(module, count, size).whole), said)


@dataclass
class _Look:
    """What came of an image of `size` pixels in a network: the first layer that minds the number of channels, the shape
    that it was given, whether that layer took it, and whether the whole network did."""

    size: int
    layer: nn.Module | None = None
    given: tuple[int, ...] = ()
    passed: bool = False
    whole: bool = False

    @property
    def flat(self) -> bool:
        """Whether that layer is a linear one on the pixels themselves."""
        return isinstance(self.layer, nn.Linear) and len(self.given) == 2 and self.given[-1] == COLOURS * self.size**2


def _look(module: nn.Module, channels: int, size: int) -> _Look:
    found = _Look(size)

    def before(layer: nn.Module, given: tuple[Any, ...]) -> None:
        if found.layer is None and given and isinstance(given[0], Tensor):
            found.layer, found.given = layer, tuple(given[0].shape)

    def after(layer: nn.Module, given: tuple[Any, ...], output: Any) -> None:
        found.passed |= layer is found.layer

    parameter = next((p for p in module.parameters() if p.is_floating_point()), torch.zeros(()))
    image = torch.rand(1, channels, size, size, generator=torch.Generator().manual_seed(0)).to(parameter)
    minding = [
        layer for layer in module.modules() if isinstance(layer, (nn.Conv1d, nn.Conv2d, nn.Linear, nn.BatchNorm2d))
    ]
    handles = [layer.register_forward_pre_hook(before) for layer in minding]
    handles += [layer.register_forward_hook(after) for layer in minding]
    try:
        with torch.no_grad():
            module(image)
        found.whole = True
    except Exception:  # networks refuse images with every kind of exception
        pass
    finally:
        for handle in handles:
            handle.remove()
    return found


def _said_by(layer: nn.Module, given: tuple[int, ...], flat: bool) -> int | None:
    """The image's channels, by what a network's first layer takes and what it was given of an image with three."""
    if isinstance(layer, nn.Linear):
        wanted, seen = layer.in_features, given[-1]
    elif isinstance(layer, nn.BatchNorm2d):
        wanted, seen = layer.num_features, given[1]
    else:
        wanted, seen = int(getattr(layer, "in_channels", 0)), given[1]
    # A network may have put more into a channel than the image had there, such as a patch's pixels, but in proportion.
    if seen and wanted * COLOURS % seen == 0:
        return wanted * COLOURS // seen
    if flat:  # all pixels of an image of another size
        return next((c for c in (COLOURS, 1, *range(2, MOST + 1)) if _is_square(wanted / c)), None)
    return None


def _is_square(value: float) -> bool:
    return value.is_integer() and math.isqrt(int(value)) ** 2 == value


def counted(channels: int) -> str:
    """`1 channel`, `4 channels`."""
    return f"{channels} channel{'s' if channels != 1 else ''}"
