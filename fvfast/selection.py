"""Which features an atlas holds, and which of them end their forward pass at the same place."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from torch import nn

from fvfast import spelling
from fvfast.errors import FvfastError
from fvfast.layers import LOGITS, Layer, find
from fvfast.objectives import Channel


def features(
    module: nn.Module,
    layers: Mapping[str, Layer],
    model: str,
    names: Sequence[str],
    channels: str | None = None,
    everything: bool = False,
) -> list[Channel]:
    """The channels to render, in the order of the forward pass.

    names: layers, perhaps quoted as in a target, or patterns in which `*` stands for a part of a dotted name
    ("_blocks.*", "layer3.*.conv2"); a layer that is called so itself is meant alone.
    everything: the whole network instead (see `whole_network`). channels: "0-63,100"; None for all. A channel that a
    layer named in full does not have is an error; otherwise layers give those that they have.
    Raises FvfastError for unknown layers, channels that no layer has, and nothing to do.
    """
    if everything and names:
        raise FvfastError("--all takes every layer: leave out the LAYERs, or leave out --all")
    if not everything and not names:
        raise FvfastError(f"name at least one layer, or --all; `fvfast layers {model}` lists them")
    spans = None if channels is None else _spans(channels)
    whole = dict.fromkeys(whole_network(module, layers), False) if everything else None
    chosen = _matching(layers, names, model) if whole is None else whole
    found: list[Channel] = []
    for name in sorted(chosen, key=list(layers).index):
        count = layers[name].channels
        highest = max(last for _, last in spans) if spans else 0
        if chosen[name] and highest >= count:
            raise FvfastError(f"{name} has channels 0-{count - 1}, not {highest}")
        numbers = range(count) if spans is None else _numbers(spans, count)
        found.extend(Channel(name, number) for number in numbers)
    if not found:
        raise FvfastError(f"none of the layers has a channel {channels}; `fvfast layers {model}` lists them")
    return found


def whole_network(module: nn.Module, layers: Mapping[str, Layer]) -> list[str]:
    """Every layer that makes new features: convolutions and linear maps, each after its batch-norm where one
    follows, and the logits."""
    modules = dict(module.named_modules())
    order = list(layers)
    chosen: list[str] = []
    for at, name in enumerate(order):
        if name == LOGITS or name not in modules or not _weighs(modules[name]):
            continue
        following = order[at + 1] if at + 1 < len(order) else ""
        same = following in modules and layers[following].channels == layers[name].channels
        chosen.append(following if same and isinstance(modules[following], nn.BatchNorm2d) else name)
    if LOGITS in layers:
        if chosen and layers[chosen[-1]].channels == layers[LOGITS].channels and _last_is_head(modules, chosen[-1]):
            chosen.pop()  # the same numbers under two names
        chosen.append(LOGITS)
    return chosen


def stages(module: nn.Module, layers: Mapping[str, Layer]) -> dict[str, int]:
    """How many weighted layers have run by the end of each layer. Layers with the same number are truncated alike:
    between them lie only norms, activations and sums."""
    modules = dict(module.named_modules())
    count = 0
    found: dict[str, int] = {}
    for name in layers:
        count += name in modules and _weighs(modules[name])
        found[name] = count
    return found


def _weighs(module: nn.Module) -> bool:
    """Whether a module has a matrix or a kernel of its own: what makes features, and takes time."""
    own = module.named_parameters(recurse=False)
    return any(parameter.dim() >= 2 and name.endswith("weight") for name, parameter in own)  # no embedding of positions


def _last_is_head(modules: Mapping[str, nn.Module], name: str) -> bool:
    return isinstance(modules.get(name), nn.Linear)


def _matching(layers: Mapping[str, Layer], names: Sequence[str], model: str) -> dict[str, bool]:
    """The layers that are named or match a pattern, each with whether it is named in full."""
    chosen: dict[str, bool] = {}
    for name in names:
        layer, rest = spelling.split_name(name)
        if "*" not in name or name in layers or spelling.is_quoted(layer):
            if rest is not None and name not in layers:
                raise FvfastError(f"{name!r} is a target, not a layer: write {layer} --channels {rest}")
            chosen[find(layers, name if name in layers else spelling.unquoted(name), model).name] = True
            continue
        pattern = re.compile("[^.]*".join(re.escape(part) for part in re.split(r"\*+", name)))
        matching = [layer for layer in layers if pattern.fullmatch(layer)]
        if not matching:
            raise FvfastError(f"no layer of {model} matches {name!r}; see `fvfast layers {model}`")
        for layer in matching:
            chosen.setdefault(layer, False)
    return chosen


def _spans(text: str) -> list[tuple[int, int]]:
    if not spelling.SPANS.fullmatch(text):
        raise FvfastError(f"--channels takes numbers and ranges such as 0-63,100, not {spelling.shown(text)}")
    return spelling.spans(text, "of --channels")


def _numbers(spans: Sequence[tuple[int, int]], count: int) -> list[int]:
    return sorted({n for first, last in set(spans) for n in range(first, min(last, count - 1) + 1)})
