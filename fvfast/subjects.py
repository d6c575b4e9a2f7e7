"""What a render is of, as a store files it: its layer and channel, and what its written target leaves unsaid."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from fvfast.expressions import Objective
from fvfast.layers import Layer
from fvfast.objectives import Channel, Neuron, WholeLayer
from fvfast.store import NO_CHANNEL


@dataclass(frozen=True)
class Subject:
    """What an image shows.

    layer, depth: the deepest layer that the objective reads, and its place in the forward pass; "" and -1 where it
    reads none. channel: -1 where it is no single one. unsaid: the digest of what determines the image besides its
    written target (a direction's numbers, the images that it was to differ from); "" where the target says all.
    handed: digests of what its recipe only names, by what that is ("generator", "start").
    """

    layer: str
    depth: int
    channel: int
    unsaid: str = ""
    handed: Mapping[str, str] = field(default_factory=dict)


def subject(
    objective: Objective, layers: Mapping[str, Layer], company: Sequence[int], handed: Mapping[str, str]
) -> Subject:
    """What an image with this objective shows. company: the seeds of the images that its own value
    depends on, where it is coupled. handed: as in `Subject`."""
    places = {name: depth for depth, name in enumerate(layers)}
    deepest = max(objective.layers, key=places.__getitem__, default="")
    channel = objective.channel if isinstance(objective, (Channel, Neuron)) else NO_CHANNEL
    unsaid = ""
    if not isinstance(objective, (Channel, Neuron, WholeLayer)):
        described = [_described(objective), list(company)]
        unsaid = hashlib.sha256(repr(described).encode()).hexdigest()
    return Subject(deepest, places.get(deepest, -1), channel, unsaid, handed)


def _described(value: Any) -> Any:
    """An objective, and whatever it is made of, in words that are the same for equal ones in any process."""
    if isinstance(value, torch.Tensor):
        plain = value.detach().cpu().contiguous()
        numbers = plain.reshape(-1).view(torch.uint8).numpy().tobytes()
        return str(plain.dtype), tuple(plain.shape), hashlib.sha256(numbers).hexdigest()
    if isinstance(value, Objective):
        names = [field.name for field in dataclasses.fields(value)] if dataclasses.is_dataclass(value) else vars(value)
        parts = [(name, _described(getattr(value, name))) for name in names]
        return type(value).__module__, type(value).__qualname__, parts
    if isinstance(value, (list, tuple)):
        return [_described(one) for one in value]
    return repr(value)
