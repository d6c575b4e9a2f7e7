"""Which axis of a layer's output holds the images, which the channels: found out, never guessed.

An axis of 24 among three of 24 looks like any other. What tells them apart: the layer's kind (a convolution's channels
come second), what grows with the number of images, what grows with their size, and the layers that a layer is made of.
Where none of that decides, a layer cannot be named until its user says what is what (`fvfast.load(layouts=...)`).

Layouts are written as letters, an axis each: B the images, C the channels; H and W a grid, T or L positions in a row,
D a depth, in any order.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from torch import Tensor, nn

NAMES = {0: "", 1: "T", 2: "HW", 3: "DHW"}  # of the axes that hold positions, by their number
# Of a class, of registers, of distillation: tokens that stand for no patch, at most.
EXTRA_TOKENS = 5

# Layers by where their channels are: what has weights for each.
SECOND = (nn.modules.conv._ConvNd, nn.modules.batchnorm._NormBase, nn.GroupNorm)
LAST = (nn.Linear, nn.Bilinear, nn.Embedding, nn.RNNBase, nn.MultiheadAttention, nn.LayerNorm)
LAST += (nn.TransformerEncoderLayer, nn.TransformerDecoderLayer, nn.TransformerEncoder, nn.TransformerDecoder)
# Layers that leave the axes as they find them, though not always their lengths.
SLIDING = (
    nn.modules.pooling._MaxPoolNd,
    nn.modules.pooling._AvgPoolNd,
    nn.modules.pooling._AdaptiveMaxPoolNd,
    nn.modules.pooling._AdaptiveAvgPoolNd,
    nn.modules.pooling._LPPoolNd,
    nn.Dropout1d,
    nn.Dropout2d,
    nn.Dropout3d,
    nn.LocalResponseNorm,
    nn.Upsample,
)
# Layers that leave every number where it is.
POINTWISE = (
    nn.Identity, nn.Dropout, nn.AlphaDropout, nn.ReLU, nn.ReLU6, nn.Hardtanh, nn.LeakyReLU, nn.ELU, nn.SELU, nn.CELU,
    nn.GELU, nn.SiLU, nn.Mish, nn.Sigmoid, nn.Tanh, nn.Hardswish, nn.Hardsigmoid, nn.Softplus, nn.Softsign, nn.PReLU,
    nn.Threshold, nn.LogSigmoid, nn.Tanhshrink, nn.Hardshrink, nn.Softshrink, nn.RReLU,
)  # fmt: skip


@dataclass
class Seen:
    """What was seen of a layer's outputs: their shapes.

    one: for one image; two: for two of the same size, None where the network takes one only; other: for one image of
    another size, None where it takes none. inside: the layers that ran within it; before: the one whose output it got.
    """

    name: str
    module: nn.Module | None
    one: tuple[int, ...]
    two: tuple[int, ...] | None = None
    other: tuple[int, ...] | None = None
    inside: list[str] = field(default_factory=list)
    before: str | None = None


def layouts(seen: Mapping[str, Seen], said: Mapping[str, str]) -> dict[str, str]:
    """The layout of every layer that was seen, or why it has none: a sentence, which is known by its spaces.

    said: layouts that the user has stated, by layer.
    """
    found = {name: _stated(seen[name], layout) for name, layout in said.items() if name in seen}
    found |= {name: told for name, layer in seen.items() if name not in found and (told := _by_itself(layer))}
    _by_relatives(seen, found)
    return {name: found.get(name) or _ambiguous(layer) for name, layer in seen.items()}


def undecided(seen: Mapping[str, Seen], said: Mapping[str, str]) -> bool:
    """Whether an image of another size may tell more of some layer than is known by itself."""
    return any(name not in said and not _by_itself(layer) for name, layer in seen.items())


def _by_itself(layer: Seen) -> str | None:
    """A layer's layout, or why it has none, by what was seen of it alone; None where that does not tell."""
    images = images_axis(layer)
    if isinstance(images, str):
        return images
    channels = _channels(layer, images)
    return None if channels is None else spelt(len(layer.one), images, channels if channels >= 0 else None)


def spelt(axes: int, images: int, channels: int | None) -> str:
    """A layout with the images and the channels at these axes."""
    rest = NAMES.get(axes - 2 if channels is not None else axes - 1, "")
    letters = iter(rest)
    return "".join("B" if a == images else "C" if a == channels else next(letters) for a in range(axes))


def images_axis(layer: Seen) -> int | str:
    """The axis of the images, or why there is none."""
    one, two = layer.one, layer.two
    if not 1 <= len(one) <= 5:
        return f"its output has {len(one)} axes"
    if two is None:  # the network takes one image at a time: the first axis, as ever
        return 0 if one[0] == 1 else f"its output {list(one)} has no axis of images"
    if len(one) == len(two):
        grown = [a for a in range(len(one)) if one[a] != two[a]]
        if len(grown) == 1 and two[grown[0]] == 2 * one[grown[0]]:
            if one[grown[0]] == 1:
                return grown[0]
            return f"its output {list(one)} mixes images with positions in one axis"
    return f"its output {list(one)} has no axis of images"


def _channels(layer: Seen, images: int) -> int | None:
    """The axis of the channels, by the layer itself; None where that does not tell. -1: there is none."""
    rest = [a for a in range(len(layer.one)) if a != images]
    if len(rest) == 1:
        return rest[0]
    if not rest:
        return -1
    by_kind = _by_kind(layer.module, len(layer.one))
    if by_kind is not None and by_kind in rest:
        return by_kind
    if layer.other is not None and len(layer.other) == len(layer.one):
        fixed = [a for a in rest if layer.other[a] == layer.one[a]]
        if len(fixed) == 1:
            return fixed[0]
    long = [a for a in rest if layer.one[a] > 1]
    return long[0] if len(rest) > 2 and len(long) == 1 else None  # on a grid of one place


def _by_kind(module: nn.Module | None, axes: int) -> int | None:
    """Where a layer of PyTorch's own has its channels."""
    if module is None or axes < 3:
        return None
    for kinds, axis in ((SECOND, 1), (LAST, axes - 1)):
        for kind in kinds:
            if isinstance(module, kind) and _runs_as(module):
                if isinstance(module, nn.LayerNorm) and len(module.normalized_shape) != 1:
                    return None
                return axis
    return None


def _runs_as(module: nn.Module) -> bool:
    """Whether a module puts out what PyTorch's own class does, without a forward pass or hooks of its own."""
    own = next(base for base in type(module).__mro__ if "forward" in vars(base))
    return own.__module__.startswith("torch.nn.") and "forward" not in vars(module) and not module._forward_hooks


def _by_relatives(seen: Mapping[str, Seen], found: dict[str, str]) -> None:
    """Decide layers by those they are made of, those they follow, and those of their shape; in place."""
    before = -1
    while len(found) != before:
        before = len(found)
        for name, layer in seen.items():
            if name not in found and (near := _near(layer, seen, found)):
                found[name] = near


def _near(layer: Seen, seen: Mapping[str, Seen], found: Mapping[str, str]) -> str | None:
    """The layout that a layer's relatives say it has; None where they differ, or say nothing."""
    source = layer.before
    if source is not None and source in found and isinstance(layer.module, POINTWISE) and _alike(seen[source], layer):
        return found[source] if " " not in found[source] else None
    if source is not None and source in found and isinstance(layer.module, SLIDING) and _runs_as(layer.module):
        told = found[source]
        same = "C" in told and len(told) == len(layer.one)
        if same and layer.one[told.index("C")] == seen[source].one[told.index("C")]:
            return told
    for relatives in (layer.inside, [source] if source else [], list(seen)):
        told = {found[n] for n in relatives if n in found and _alike(seen[n], layer) and _telling(layer, found[n])}
        if len(told) == 1:
            return told.pop()
        if told:
            return None
    if near := _by_grid(layer, seen, found):
        return near
    # As they are documented; on maps of another order their sizes have told.
    sliding = isinstance(layer.module, SLIDING) and _runs_as(layer.module) and images_axis(layer) == 0
    return spelt(len(layer.one), 0, 1) if sliding and len(layer.one) > 2 else None


def _alike(one: Seen, other: Seen) -> bool:
    return one.one == other.one and one.two == other.two


def _telling(layer: Seen, layout: str) -> bool:
    """Whether a layer of this shape can have this layout and no other of its axes could be the channels for it.

    Where a grid's side is as long as there are channels, what is laid out otherwise has the same shape.
    """
    if " " in layout or "C" not in layout:
        return False
    at = layout.index("C")
    return all(a == at or layout[a] == "B" or length != layer.one[at] for a, length in enumerate(layer.one))


def _by_grid(layer: Seen, seen: Mapping[str, Seen], found: Mapping[str, str]) -> str | None:
    """The layout in which a layer has a known map's channels, and its positions in a row after a few tokens at most."""
    images = images_axis(layer)
    if len(layer.one) != 3 or isinstance(images, str):
        return None
    possible: set[str] = set()
    first, last = (a for a in range(3) if a != images)
    for name, told in found.items():
        if " " in told or not {"H", "W", "C"} <= set(told):
            continue
        sizes = dict(zip(told, seen[name].one, strict=True))
        for channels, positions in ((first, last), (last, first)):
            tokens = layer.one[positions] - sizes["H"] * sizes["W"]
            if layer.one[channels] == sizes["C"] and 0 <= tokens <= EXTRA_TOKENS:
                possible.add(spelt(3, images, channels))
    return possible.pop() if len(possible) == 1 else None


def _stated(layer: Seen, said: str) -> str:
    if len(said) == len(layer.one):
        return said
    return f"its output {list(layer.one)} has {len(layer.one)} axes, its layout {said} has {len(said)}"


def _ambiguous(layer: Seen) -> str:
    """Why a layer cannot be named, with what its user can say."""
    images = images_axis(layer)
    assert isinstance(images, int)
    choice = [spelt(len(layer.one), images, a) for a in range(len(layer.one)) if a != images]
    return (
        f"its output {list(layer.one)} does not tell which axis holds the channels: say so with "
        f"--layout {layer.name}={choice[0]} or {' or '.join(choice[1:])} (in Python: fvfast.load(layouts=...))"
    )


# Putting it to use -------------------------------------------------------------------------------------------


def standard(output: Tensor, layout: str) -> Tensor:
    """An output as [B, C, H, W], by its layout; tokens become [B, C, T, 1], vectors [B, C, 1, 1].

    A view where that can be; more axes than a grid's two are flattened into the first.
    """
    order = [layout.index("B"), *([layout.index("C")] if "C" in layout else [])]
    rest = [a for a in range(len(layout)) if a not in order]
    moved = output.permute(*order, *rest)
    if "C" not in layout:
        moved = moved[:, None]
    while moved.dim() < 4:
        moved = moved[..., None]
    return moved.flatten(2, -2) if moved.dim() > 4 else moved


def original(maps: Tensor, layout: str, sizes: tuple[int, ...]) -> Tensor:
    """What `standard` was made of: the output as the module gave it. sizes: of its axes, for one image."""
    order = [layout.index("B"), *([layout.index("C")] if "C" in layout else [])]
    rest = [a for a in range(len(layout)) if a not in order]
    shape = [len(maps), *([maps.shape[1]] if "C" in layout else []), *(sizes[a] for a in rest)]
    moved = maps.reshape(shape)
    back = [0] * len(layout)
    for at, axis in enumerate([*order, *rest]):
        back[axis] = at
    return moved.permute(*back)
