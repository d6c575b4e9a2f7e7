"""Targets as people write them: `LAYER:CHANNEL`, `LAYER:CHANNEL@Y,X`, `LAYER`, `logits:NAME`, lists and ranges."""

from __future__ import annotations

import re
from collections.abc import Mapping

from fvfast.errors import FvfastError, did_you_mean
from fvfast.expressions import Objective
from fvfast.layers import LOGITS, Layer, find
from fvfast.models import Model
from fvfast.objectives import Channel, Neuron, WholeLayer

FORMS = "LAYER:CHANNEL, LAYER:3,7,10-19, LAYER:CHANNEL@Y,X, LAYER, or logits:NAME"

_SPANS = re.compile(r"\d+(-\d+)?(,\d+(-\d+)?)*")
_NEURON = re.compile(r"(\d+)@(?:centre|(\d+),(\d+))")

# Features of the bundled network that show textures, patterns, parts and classes; chosen by eye (docs/recipes.md).
SHOWCASE = (
    "_blocks.4:1",
    "_blocks.7:4",
    "_blocks.7:11",
    "_blocks.10:9",
    "_blocks.12:7",
    "logits:goldfish",
    "logits:bell pepper",
    "logits:daisy",
)


def parse(text: str, layers: Mapping[str, Layer], model: Model) -> list[Objective]:
    """The objectives that one written target stands for, each checked against the model.

    Raises FvfastError for a malformed target or an unknown layer, channel, position or class.
    """
    name, colon, rest = text.partition(":")
    if not name or (colon and not rest):
        raise FvfastError(f"{text!r} is no target; write {FORMS}")
    layer = find(layers, name, model.name)
    objectives: list[Objective]
    if not colon:
        objectives = [WholeLayer(name)]
    elif match := _NEURON.fullmatch(rest):
        channel, y, x = (None if part is None else int(part) for part in match.groups())
        assert channel is not None
        objectives = [Neuron(name, channel, y, x)]
    elif _SPANS.fullmatch(rest):
        objectives = [Channel(name, channel) for channel in _numbers(rest, layer)]
    elif name == LOGITS and "@" not in rest:
        objectives = [Channel(LOGITS, class_index(rest, model))]
    else:
        raise FvfastError(f"{text!r} is no target; write {FORMS}")
    for objective in objectives:
        objective.check(layers, model.name)
    return objectives


def label(objective: Objective, model: Model) -> str:
    """How an objective is written for people: classes by name, and otherwise as a target that `parse` reads."""
    if isinstance(objective, Channel) and objective.layer == LOGITS and model.classes:
        name = model.classes[objective.channel] if objective.channel < len(model.classes) else ""
        # Some of ImageNet's names stand for two classes ("crane"); those go by number.
        if name and model.classes.count(name) == 1:
            return f"{LOGITS}:{name}"
    return objective.label


def class_index(text: str, model: Model) -> int:
    """The class that a name means: case, spaces, hyphens and underscores matter only where two would be the same."""
    if not model.classes:
        raise FvfastError(f"{model.name} does not name its classes; write {LOGITS}:INDEX instead of {text!r}")
    if model.classes.count(text) == 1:  # ImageNet has a Cardigan (a dog) and a cardigan
        return model.classes.index(text)
    wanted = _plain(text)
    hits = [i for i, name in enumerate(model.classes) if _plain(name) == wanted]
    if len(hits) == 1:
        return hits[0]
    if hits:
        choice = " or ".join(f"{LOGITS}:{i}" for i in hits)
        raise FvfastError(f"{text!r} names {len(hits)} classes; write {choice}")
    raise FvfastError(f"{model.name} has no class {text!r}{did_you_mean(text, dict.fromkeys(model.classes))}")


def _numbers(spans: str, layer: Layer) -> list[int]:
    numbers: list[int] = []
    for span in spans.split(","):
        first, _, last = span.partition("-")
        low, high = int(first), int(last or first)
        if low > high:
            raise FvfastError(f"the range {span} in {layer.name}:{spans} runs backwards; write {high}-{low}")
        # Checked before it is spelt out: 0-999999999 must not fill the memory.
        if high >= layer.channels:
            raise FvfastError(f"{layer.name} has channels 0-{layer.channels - 1}, not {high}")
        numbers.extend(range(low, high + 1))
    return list(dict.fromkeys(numbers))


def _plain(name: str) -> str:
    return re.sub(r"[\s_-]+", " ", name.strip().lower())
