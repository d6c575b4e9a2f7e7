"""What a render is of, as a store files it: its layer and channel, and what its written target leaves unsaid.

And back: from a row of a store to the objective that its image was rendered for.
"""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch

from fvfast import layers as network_layers
from fvfast import spelling, targets
from fvfast.errors import FvfastError
from fvfast.evidence import whole_channel
from fvfast.expressions import Objective, Picture
from fvfast.identity import render_key
from fvfast.layers import Layer
from fvfast.objectives import Channel, Neuron, WholeLayer
from fvfast.recipes import Recipe
from fvfast.store import NO_CHANNEL, Entry

if TYPE_CHECKING:
    from fvfast.job import Job


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


def objective_of(entry: Entry, job: Job) -> Objective:
    """What the image of a row was rendered for, which a store keeps as it was written.

    Raises FvfastError where that does not say all: something was given in Python, or a file is another one by now.
    """
    channel = whole_channel(entry)
    if channel is not None:
        network_layers.find(job.layers, entry.layer, job.model.name)
        objective: Objective = Channel(entry.layer, channel)
        objective.check(job.layers, job.model.name)
        return objective
    found = targets.parse(entry.target, job.layers, job.model)
    of = subject(found[0], job.layers, (), {})
    if len(found) > 1 or (of.layer, of.channel) != (entry.layer, entry.channel):
        raise FvfastError(f"{spelling.shown(entry.target)} was made in Python: give the objective again there")
    if any(True for _ in found[0].pictures()):
        spec = {name: getattr(entry, name) for name in ("target", "recipe", "size", "seed", "dtype")}
        more = {**job.handed(Recipe.from_dict(entry.recipe)), "objective": of.unsaid}
        if render_key(spec, job.model, entry.weights_digest, **more) != entry.key:
            raise FvfastError(f"the picture of {spelling.shown(entry.target)} is another one by now")
    return found[0]


def _described(value: Any) -> Any:
    """An objective, and whatever it is made of, in words that are the same for equal ones in any process."""
    if isinstance(value, torch.Tensor):
        plain = value.detach().cpu().contiguous()
        numbers = plain.reshape(-1).view(torch.uint8).numpy().tobytes()
        return str(plain.dtype), tuple(plain.shape), hashlib.sha256(numbers).hexdigest()
    if isinstance(value, Picture):
        return value.name, _described(value.pixels)
    if isinstance(value, Objective):
        names = _fields(value) if dataclasses.is_dataclass(value) else vars(value)
        parts = [(name, _described(getattr(value, name))) for name in names]
        return type(value).__module__, type(value).__qualname__, parts
    if isinstance(value, (list, tuple)):
        return [_described(one) for one in value]
    return repr(value)


def _fields(value: Any) -> list[str]:
    """A dataclass's fields; those that came `LATER` where they say something, so that older digests hold."""
    return [
        f.name for f in dataclasses.fields(value) if not f.metadata.get("later") or getattr(value, f.name) != f.default
    ]
