"""An image's tensors taken over by another that was made alike, so that what was captured with the one serves both."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor

from fvfast.images import Frame, Image


def pairs(mine: Image, theirs: Image) -> list[tuple[Tensor, Tensor]] | None:
    """The tensors of two images that stand for each other; None where the two differ in more than their numbers."""
    found: list[tuple[Tensor, Tensor]] = []
    return found if _match(mine, theirs, found) else None


def copied(image: Image) -> Image:
    """The same image on tensors of its own; what is no tensor (a generator, say) is shared."""
    return _copied(image, {})


def _match(mine: Any, theirs: Any, found: list[tuple[Tensor, Tensor]], lent: bool = False) -> bool:
    """lent: whether these are images inside of others, which lend them their parameter anew before every use."""
    if type(mine) is not type(theirs):
        return False
    if isinstance(mine, Tensor):
        found.append((mine, theirs))
        return mine.shape == theirs.shape and mine.dtype == theirs.dtype and mine.device == theirs.device
    if isinstance(mine, Frame):  # its means and deviations are one network's
        return _plain(mine) == _plain(theirs)
    if isinstance(mine, Image):
        own, other = ({k: v for k, v in vars(i).items() if not lent or k != "parameter"} for i in (mine, theirs))
        return own.keys() == other.keys() and all(_match(own[key], other[key], found, True) for key in own)
    if isinstance(mine, dict):
        return mine.keys() == theirs.keys() and all(_match(mine[key], theirs[key], found) for key in mine)
    if isinstance(mine, (list, tuple)):
        return len(mine) == len(theirs) and all(_match(a, b, found) for a, b in zip(mine, theirs, strict=True))
    return mine is theirs or bool(mine == theirs)


def _plain(frame: Frame) -> tuple[Any, ...]:
    return frame.size, frame.view, frame.dtype, frame.device, frame.channels


def _copied(value: Any, known: dict[int, Any]) -> Any:
    if id(value) in known:
        return known[id(value)]
    if isinstance(value, Tensor):
        with torch.no_grad():
            made: Any = value.detach().clone().requires_grad_(value.requires_grad)
    elif isinstance(value, Image):
        made = copy.copy(value)
        made.__dict__ = {name: _copied(v, known) for name, v in vars(value).items()}
    elif isinstance(value, dict):
        made = {key: _copied(v, known) for key, v in value.items()}
    elif type(value) in (list, tuple):
        made = type(value)(_copied(v, known) for v in value)
    else:
        return value
    known[id(value)] = made
    return made
