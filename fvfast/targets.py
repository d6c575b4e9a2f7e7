"""Targets as people write them: `LAYER:CHANNEL`, `LAYER:CHANNEL@Y,X`, `LAYER`, `logits:NAME`, lists and ranges."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping

from fvfast.errors import FvfastError, did_you_mean
from fvfast.expressions import Objective
from fvfast.layers import LOGITS, Layer, find
from fvfast.models import Model
from fvfast.objectives import Channel, Neuron, WholeLayer
from fvfast.seeded import GIVEN, accentuation, caricature, inversion, mixture

FORMS = "LAYER:CHANNEL, LAYER:3,7,10-19, LAYER:CHANNEL@Y,X, LAYER, or logits:NAME"

SEEDED = {
    "caricature": "caricature(LAYER, FILE)",
    "inversion": "inversion(LAYER, FILE)",
    "accentuation": "accentuation(TARGET, LAYER, FILE)",
}

_SEEDED = re.compile(rf"({'|'.join(SEEDED)})\((.*)\)")
_NUMBER = re.compile(r"(\d+\.?\d*|\.\d+)\s*,\s*(.+)")
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
    if " * " in text:
        return [_mixture(text, layers, model)]
    if match := _SEEDED.fullmatch(text):
        return [_seeded(match[1], match[2], layers, model)]
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


def _mixture(text: str, layers: Mapping[str, Layer], model: Model) -> Objective:
    """`0.25 * TARGET + 0.75 * TARGET`: what an interpolation writes."""
    parts: list[tuple[float, Objective]] = []
    for term in text.split(" + "):
        weight, times, target = term.partition(" * ")
        try:
            number = float(weight)
        except ValueError:
            number = float("nan")
        if not times or not math.isfinite(number):
            raise FvfastError(f"{text!r} is no target; a sum is written WEIGHT * TARGET + WEIGHT * TARGET")
        parts.append((number, _one(target, layers, model)))
    return mixture(*parts)


def _seeded(kind: str, inside: str, layers: Mapping[str, Layer], model: Model) -> Objective:
    """`caricature(LAYER, FILE)` and its like; a number before FILE is the power, or the weight."""
    count = 2 if kind == "accentuation" else 1
    parts = [part.strip() for part in inside.split(",", count)]
    if len(parts) <= count or not all(parts):
        raise FvfastError(f"{kind}({inside}) is no target; write {SEEDED[kind]}")
    *names, file = parts
    find(layers, names[-1], model.name)
    number = 1.0
    if kind != "inversion" and (match := _NUMBER.fullmatch(file)):
        number, file = float(match[1]), match[2]
    if file == GIVEN:
        raise FvfastError(f"the picture of {kind}({inside}) was given in Python: give the objective again there")
    if kind == "caricature":
        return caricature(names[0], file, number)
    if kind == "inversion":
        return inversion(names[0], file)
    return accentuation(_one(names[0], layers, model), names[1], file, number)


def _one(text: str, layers: Mapping[str, Layer], model: Model) -> Objective:
    found = parse(text.strip(), layers, model)
    if len(found) != 1:
        raise FvfastError(f"{text!r} means {len(found)} images where one is needed: name one channel")
    return found[0]


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
