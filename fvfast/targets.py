"""Targets as people write them: `LAYER:CHANNEL`, `LAYER:CHANNEL@Y,X`, `LAYER`, `logits:NAME`, lists and ranges.

A name in quotes is a name whatever it holds: `logits:"3"` is the class called 3, `"my:layer":3` a channel of my:layer.
What `label` writes, `parse` reads as the same objective, or refuses.
"""

from __future__ import annotations

import math
import re
import unicodedata
from collections.abc import Mapping
from dataclasses import dataclass

from fvfast import spelling
from fvfast.errors import FvfastError, did_you_mean
from fvfast.expressions import Objective
from fvfast.layers import LOGITS, Layer, find
from fvfast.models import Model
from fvfast.objectives import CLASS_TOKEN, Channel, Neuron, WholeLayer
from fvfast.seeded import GIVEN, Caricature, Inversion, Nearness, accentuation, caricature, inversion, mixture
from fvfast.spelling import PYTHON, cut, shown

FORMS = "LAYER:CHANNEL, LAYER:3,7,10-19, LAYER:CHANNEL@Y,X, LAYER, or logits:NAME"
SUMS = "a sum is written WEIGHT * TARGET + WEIGHT * TARGET, other combinations are made in Python: give them there"

SEEDED = {
    "caricature": "caricature(LAYER, FILE)",
    "inversion": "inversion(LAYER, FILE)",
    "accentuation": "accentuation(TARGET, LAYER, FILE)",
}

_SEEDED = re.compile(rf"({'|'.join(SEEDED)})(\(.*\))", re.DOTALL)
_NUMBER = re.compile(rf"({spelling.NUMBER.pattern})\s*,\s*(.+)", re.ASCII | re.IGNORECASE | re.DOTALL)
# What stands after `logits:` and is no class's name unless it is quoted: also the labels of expressions.
_NO_CLASS = re.compile(r".*@.*|\d+ [-+*/] .*", re.DOTALL | re.ASCII)

# Labels of objectives that no target writes, where no layer is called so.
_MADE = re.compile(r"(diversity|nearness)\(.*\)|total_variation|l[12]|blur|.*, guided", re.DOTALL)

DEEPEST = 32  # expressions in one another
MOST = 1_000_000  # images of one target

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
    return _Reader(layers, model).read(text)


@dataclass(frozen=True)
class _Reader:
    """Reads targets of one network."""

    layers: Mapping[str, Layer]
    model: Model

    def read(self, text: str, depth: int = 0) -> list[Objective]:
        if depth > DEEPEST:
            raise FvfastError(f"a target holds more than {DEEPEST} others in one another, down to {shown(text)}")
        if text.endswith(PYTHON):
            raise FvfastError(f"{shown(text.removesuffix(PYTHON))} was made in Python: give the objective again there")
        if (inside := spelling.unwrapped(text)) is not None:
            return self.read(inside, depth + 1)
        if (match := _SEEDED.fullmatch(text)) and (inside := spelling.unwrapped(match[2])) is not None:
            return [self._seeded(match[1], inside, depth)]
        if len(cut(text, " * ", 1)) > 1:
            return [self._mixture(text, depth)]
        return self._plain(text)

    def _plain(self, text: str) -> list[Objective]:
        spelt, rest = spelling.split_name(text)
        if not spelt or rest == "":
            raise FvfastError(f"{shown(text)} is no target; write {FORMS}")
        name = self._layer(spelt, text)
        objectives: list[Objective]
        if rest is None:
            objectives = [WholeLayer(name)]
        elif match := spelling.NEURON.fullmatch(rest):
            objectives = [_neuron(name, match.groupdict(), f"in {shown(text)}")]
        elif spelling.SPANS.fullmatch(rest):
            objectives = [Channel(name, channel) for channel in _numbers(rest, self.layers[name])]
        elif rest == "direction" and not (name == LOGITS and rest in (self.model.classes or ())):
            raise FvfastError(f"{shown(text)} was made in Python: give the objective again there")
        elif name == LOGITS and _names_class(rest):
            objectives = [Channel(LOGITS, class_index(spelling.unquoted(rest), self.model))]
        elif spelling.compound(rest):
            raise FvfastError(f"{shown(text)} is no target: {SUMS}")
        else:
            raise FvfastError(f"{shown(text)} is no target; write {FORMS}")
        for objective in objectives:
            objective.check(self.layers, self.model.name)
        return objectives

    def _layer(self, spelt: str, text: str) -> str:
        """The layer that a name, perhaps quoted, means. text: the whole target."""
        name = spelling.unquoted(spelt)
        if name != spelt or (spelt in self.layers and spelling.layer(spelt) == spelt):
            return find(self.layers, name, self.model.name).name
        if spelling.compound(spelt) or spelt.startswith("("):
            raise FvfastError(f"{shown(text)} is no target: {SUMS}")
        if match := _SEEDED.match(f"{spelt})"):
            raise FvfastError(
                f"{shown(text)} is no target; write {SEEDED[match[1]]}, with FILE in quotes where brackets do not match"
            )
        if _MADE.fullmatch(spelt):
            raise FvfastError(f"{shown(text)} was made in Python: give the objective again there")
        for odd in self.layers:
            if text.startswith(odd) and spelling.layer(odd) != odd:
                written = spelling.layer(odd) + text[len(odd) :]
                raise FvfastError(f"{shown(text)} is no target: the layer {odd!r} needs quotes, {written}")
        return find(self.layers, spelling.short(name), self.model.name).name

    def _mixture(self, text: str, depth: int) -> Objective:
        """`0.25 * TARGET + 0.75 * TARGET`: what an interpolation writes."""
        parts: list[tuple[float, Objective]] = []
        for term in cut(text, " + "):
            weight, *target = cut(term, " * ", 1)
            if not target or not spelling.NUMBER.fullmatch(weight.strip()) or not math.isfinite(float(weight)):
                raise FvfastError(f"{shown(text)} is no target: {SUMS}")
            parts.append((float(weight), self._one(target[0], depth)))
        return mixture(*parts)

    def _seeded(self, kind: str, inside: str, depth: int) -> Objective:
        """`caricature(LAYER, FILE)` and its like; a number before FILE is the power, or the weight."""
        count = 2 if kind == "accentuation" else 1
        parts = [part.strip() for part in cut(inside, ",", count)]
        if len(parts) <= count or not all(parts):
            raise FvfastError(f"{kind}({spelling.short(inside)}) is no target; write {SEEDED[kind]}")
        *names, file = parts
        layer = self._layer(names[-1], f"{kind}({inside})")
        number = 1.0
        if kind != "inversion" and (match := _NUMBER.fullmatch(file)):
            number, file = float(match[1]), match[match.re.groups]
        if not math.isfinite(number):
            raise FvfastError(f"the number in {kind}({spelling.short(inside)}) is larger than any that can be meant")
        if file == GIVEN:
            raise FvfastError(f"the picture of {kind}({inside}) was given in Python: give the objective again there")
        file = spelling.unquoted(file)
        if kind == "caricature":
            return caricature(layer, file, number)
        if kind == "inversion":
            return inversion(layer, file)
        return accentuation(self._one(names[0], depth), layer, file, number)

    def _one(self, text: str, depth: int) -> Objective:
        found = self.read(text.strip(), depth + 1)
        if len(found) != 1:
            raise FvfastError(f"{shown(text)} means {len(found)} images where one is needed: name one channel")
        return found[0]


def label(objective: Objective, model: Model) -> str:
    """How an objective is written for people: classes by name, and otherwise as a target that `parse` reads.

    What only Python can make says so where it would read as something else.
    """
    if isinstance(objective, Channel) and objective.layer == LOGITS and model.classes:
        name = model.classes[objective.channel] if 0 <= objective.channel < len(model.classes) else ""
        # Some of ImageNet's names stand for two classes ("crane"); those go by number.
        if isinstance(name, str) and name and model.classes.count(name) == 1:
            return f"{LOGITS}:{name if _bare(name, objective.channel) else spelling.quoted(name)}"
    text = objective.label
    return f"{text}{PYTHON}" if not _written(objective) and _readable(text, model) else text


def _bare(name: str, index: int) -> bool:
    """Whether a class's name can stand without quotes. index: its number, which its name may be as well."""
    if spelling.SPANS.fullmatch(name):
        return all(number.lstrip("0") == str(index).lstrip("0") for number in re.split("[-,]", name))
    return not (spelling.is_odd_class(name) or len(cut(f"{LOGITS}:{name}", " * ", 1)) > 1) and _names_class(name)


def _names_class(rest: str) -> bool:
    """Whether what follows `logits:` is a class's name."""
    if spelling.is_quoted(rest):
        return True
    return not (spelling.SPANS.fullmatch(rest) or _NO_CLASS.fullmatch(rest))


def _written(objective: Objective) -> bool:
    """Whether an objective is made of nothing but terms that a target can write."""
    terms = (Channel, Neuron, WholeLayer, Caricature, Inversion, Nearness)  # themselves, no subclass
    return all(type(leaf) in terms for leaf in objective.leaves())


def _readable(text: str, model: Model) -> bool:
    """Whether a text reads as a target of some layer of a network."""
    names = [LOGITS, *(name for name, _ in model.module.named_modules())]
    wide = {name: Layer(name, "", MOST, MOST, MOST, MOST**2 + 1, channels_last=False, calls=1) for name in names}
    try:
        parse(text, wide, model)
    except FvfastError:
        return False
    return True


def _neuron(layer: str, place: Mapping[str, str | None], where: str) -> Neuron:
    y, x, token, channel = (
        None if part in (None, "centre") else spelling.whole(part, where)
        for part in (place["y"], place["x"], place["token"], place["channel"])
    )
    assert channel is not None
    return Neuron(layer, channel, y, x, CLASS_TOKEN if place["cls"] else token)


def class_index(text: str, model: Model) -> int:
    """The class that a name means: case, spaces, hyphens and underscores matter only where two would be the same."""
    if not model.classes:
        raise FvfastError(f"{model.name} does not name its classes; write {LOGITS}:INDEX instead of {shown(text)}")
    if model.classes.count(text) == 1:  # ImageNet has a Cardigan (a dog) and a cardigan
        return model.classes.index(text)
    wanted = _plain(text)
    hits = [i for i, name in enumerate(model.classes) if _plain(str(name)) == wanted]
    if len(hits) == 1:
        return hits[0]
    if hits:
        choice = " or ".join(f"{LOGITS}:{i}" for i in hits[:5]) + (" ..." if len(hits) > 5 else "")
        raise FvfastError(f"{shown(text)} names {len(hits)} classes; write {choice}")
    near = did_you_mean(spelling.short(text), dict.fromkeys(map(str, model.classes)))
    raise FvfastError(f"{model.name} has no class {shown(text)}{near}")


def _numbers(spans: str, layer: Layer) -> list[int]:
    numbers: dict[int, None] = {}
    for low, high in spelling.spans(spans, f"in {layer.name}:{spelling.short(spans)}"):
        # Checked before it is spelt out: 0-999999999 must not fill the memory.
        if high >= layer.channels:
            raise FvfastError(f"{layer.name} has channels 0-{layer.channels - 1}, not {high}")
        numbers |= dict.fromkeys(range(low, high + 1))
    return list(numbers)


def _plain(name: str) -> str:
    return re.sub(r"[\s_-]+", " ", unicodedata.normalize("NFC", name).strip().lower())
