"""What to maximise: small expressions over a network's activations and the image itself.

Every objective gives one number an image. Sums, differences, products and quotients, with numbers and with each
other, mean what algebra says and build new objectives; the operands stay as they are:

    channel("features.5", 3) + 0.5 * neuron("features.7", 1) - 2 * total_variation()
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import Tensor

from fvfast import arguments, spelling
from fvfast.errors import FvfastError
from fvfast.expressions import Context, Objective, OnLayer, Written
from fvfast.layers import LOGITS, Layer
from fvfast.seeded import accentuation as accentuation
from fvfast.seeded import caricature as caricature
from fvfast.seeded import interpolated as interpolated
from fvfast.seeded import inversion as inversion
from fvfast.seeded import mixture as mixture

CLASS_TOKEN = "cls"
WIDEST_BLUR = 100.0  # pixels

# Terms on a layer ------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Channel(Written):
    """Mean activation of a channel over all positions."""

    layer: str
    channel: int

    def settle(self) -> None:
        super().settle()
        _settle_channel(self)

    def value(self, context: Context) -> Tensor:
        return context[self.layer][:, self.channel].mean((-2, -1))  # [B]

    def spelt(self, layer: str) -> str:
        return f"{layer}:{self.channel}"

    def check_in(self, layer: Layer, model: str) -> None:
        _check_channel(layer, self.channel)


@dataclass(frozen=True)
class Neuron(Written):
    """Activation of a channel at one position; the centre where y and x are None.

    token: one of the layer's tokens instead, by number, those before the patches counted; "cls" for the class token.
    """

    layer: str
    channel: int
    y: int | None = None
    x: int | None = None
    token: int | str | None = field(default=None, metadata={"later": True})

    def settle(self) -> None:
        super().settle()
        _settle_channel(self)
        if (self.y is None) != (self.x is None):
            raise FvfastError("a neuron has both a row y and a column x, or neither for the centre")
        for name in ("y", "x"):
            object.__setattr__(self, name, arguments.maybe_whole(name, getattr(self, name), 0))

    def value(self, context: Context) -> Tensor:
        maps = context[self.layer]  # [B, C, H, W]
        row, column = self.place(context.layers.get(self.layer), maps.shape[-2:])
        return maps[:, self.channel, row, column]  # [B]

    def place(self, layer: Layer | None, grid: torch.Size) -> tuple[int, int]:
        """Where the position lies in the last two axes of the layer's activations, whose sizes `grid` has."""
        if self.token is not None:
            return 0 if self.token == CLASS_TOKEN else int(self.token), 0  # the class token is the first
        height = layer.height if layer and layer.height else grid[0]
        width = layer.width if layer and layer.width else grid[1]
        y = height // 2 if self.y is None else self.y
        x = width // 2 if self.x is None else self.x
        return layer.position(y, x) if layer else (y, x)

    def spelt(self, layer: str) -> str:
        if self.token is not None:
            where = self.token if self.token == CLASS_TOKEN else f"token{self.token}"
        elif self.y is None and self.x is None:
            where = "centre"
        else:
            where = ",".join("centre" if part is None else str(part) for part in (self.y, self.x))
        return f"{layer}:{self.channel}@{where}"

    def check_in(self, layer: Layer, model: str) -> None:
        _check_channel(layer, self.channel)
        if self.token is not None:
            self._check_token(layer)
            return
        if layer.height is None or layer.width is None:
            raise FvfastError(f"{self.layer} has no grid of positions: leave out '@' in {self.label!r}")
        y, x = self.y or 0, self.x or 0
        if not (0 <= y < layer.height and 0 <= x < layer.width):
            raise FvfastError(
                f"{self.label!r} lies outside {self.layer}, which is {layer.height}x{layer.width} at this size "
                f"(Y 0-{layer.height - 1}, X 0-{layer.width - 1})"
            )

    def _check_token(self, layer: Layer) -> None:
        if self.y is not None or self.x is not None:
            raise FvfastError(f"a neuron of {self.layer} is at a token or at a row and column: leave out one of them")
        if layer.tokens is None:
            raise FvfastError(
                f"{self.layer} has no tokens: write @Y,X or nothing in place of the '@' in {self.label!r}"
            )
        patches = None if layer.height is None or layer.width is None else layer.height * layer.width
        if self.token == CLASS_TOKEN:
            if patches is None:
                raise FvfastError(
                    f"which of the {layer.tokens} tokens of {self.layer} is a class token is not to be seen: write "
                    "@token0 if it is the first"
                )
            if patches == layer.tokens:
                raise FvfastError(f"{self.layer} has no class token: all {patches} tokens are patches, written @Y,X")
        elif not isinstance(self.token, int) or not 0 <= self.token < layer.tokens:
            raise FvfastError(f"{self.layer} has tokens 0-{layer.tokens - 1} at this size, not {self.token!r}")


@dataclass(frozen=True)
class WholeLayer(Written):
    """Mean square of everything in a layer: DeepDream's objective."""

    layer: str

    def value(self, context: Context) -> Tensor:
        return context[self.layer].square().mean((1, 2, 3))  # [B]

    def spelt(self, layer: str) -> str:
        return layer


@dataclass(frozen=True, eq=False)
class Direction(Written):
    """Mean over positions of dot(activation, vector) * max(0.1, cosine)^power.

    The clamp at 0.1 keeps a gradient where the cosine is not yet positive (lucid's `dot_compare`).
    """

    layer: str
    vector: Tensor = field(repr=False)  # [C]
    power: float = 0.0

    def settle(self) -> None:
        super().settle()
        object.__setattr__(self, "vector", _vector(self.vector))
        object.__setattr__(self, "power", arguments.number("power", self.power, least=0.0, most=arguments.STEEPEST))

    def value(self, context: Context) -> Tensor:
        maps = context[self.layer]  # [B, C, H, W]
        vector = self.vector.to(maps)[None, :, None, None]  # [1, C, 1, 1]
        dot = (maps * vector).sum(1)  # [B, H, W]
        if self.power:
            cosine = F.cosine_similarity(maps, vector, dim=1)  # [B, H, W]
            dot = dot * cosine.clamp(min=0.1) ** self.power
        return dot.mean((-2, -1))

    def on(self, device: torch.device) -> Objective:
        return Direction(self.layer, self.vector.to(device, copy=True), self.power)

    def spelt(self, layer: str) -> str:
        return f"{layer}:direction"

    def check_in(self, layer: Layer, model: str) -> None:
        if self.vector.shape != (layer.channels,):
            raise FvfastError(
                f"a direction in {self.layer} needs {layer.channels} numbers, got a tensor of shape "
                f"{tuple(self.vector.shape)}"
            )


@dataclass(frozen=True)
class Diversity(OnLayer):
    """How unlike the images of one objective are: minus the mean cosine between their Gram matrices in a layer.

    0 for one image alone. After Olah et al., "Feature Visualization" (2017), with the term as in lucid.
    """

    layer: str

    def value(self, context: Context) -> Tensor:
        maps = context[self.layer].flatten(2)  # [B, C, P]
        count = len(maps)
        if count < 2:
            return maps.new_zeros(count)
        gram = F.normalize((maps @ maps.transpose(1, 2)).flatten(1), dim=1)  # [B, C * C]
        cosines = gram @ gram.T  # [B, B]
        return -(cosines.sum(1) - cosines.diagonal()) / (count - 1)

    @property
    def coupled(self) -> bool:
        return True

    @property
    def label(self) -> str:
        return f"diversity({spelling.layer(self.layer, nested=True)})"


# Terms on the image ----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class TotalVariation(Objective):
    """Mean absolute difference between neighbouring pixels of the canvas. A penalty: subtract it."""

    def value(self, context: Context) -> Tensor:
        image = context.canvas
        down = (image[:, :, 1:] - image[:, :, :-1]).abs().mean((1, 2, 3))
        right = (image[..., 1:] - image[..., :-1]).abs().mean((1, 2, 3))
        return down + right

    @property
    def label(self) -> str:
        return "total_variation"


@dataclass(frozen=True)
class Norm(Objective):
    """Mean over the canvas of |p - middle|^order, order 1 or 2. A penalty: subtract it."""

    order: int
    middle: float = 0.5

    def settle(self) -> None:
        object.__setattr__(self, "middle", arguments.number("middle", self.middle))

    def value(self, context: Context) -> Tensor:
        return (context.canvas - self.middle).abs().pow(self.order).mean((1, 2, 3))

    @property
    def label(self) -> str:
        return f"l{self.order}"


@dataclass(frozen=True)
class Blur(Objective):
    """Mean square distance between the canvas and its own blur (held fixed). A penalty on what a blur removes."""

    sigma: float = 1.0  # pixels

    def settle(self) -> None:
        object.__setattr__(self, "sigma", arguments.number("sigma", self.sigma, above=0.0, most=WIDEST_BLUR))

    def value(self, context: Context) -> Tensor:
        from torchvision.transforms.functional import gaussian_blur

        image = context.canvas
        size = 2 * math.ceil(3 * self.sigma) + 1
        return (image - gaussian_blur(image.detach(), [size, size], [self.sigma] * 2)).square().mean((1, 2, 3))

    @property
    def label(self) -> str:
        return "blur"


def _settle_channel(term: Channel | Neuron) -> None:
    """Have a term its channel as a whole number."""
    # Which channels there are is for the layer to say (`check_in`).
    object.__setattr__(term, "channel", arguments.whole("a channel", term.channel, least=-(2**63), most=2**63))


def _vector(values: object) -> Tensor:
    """A direction as float32, [C], cut off from what it was made by."""
    if isinstance(values, (str, bytes, Mapping)):
        raise FvfastError(f"a direction is a list of numbers, one a channel, not {arguments.shown(values)}")
    try:
        found = values if isinstance(values, Tensor) else torch.as_tensor(values)
    except (TypeError, ValueError, RuntimeError, OverflowError) as error:
        raise FvfastError(f"a direction is a list of numbers, one a channel, not {arguments.shown(values)}") from error
    if found.dim() != 1 or not len(found) or found.is_complex() or found.dtype == torch.bool:
        kind = str(found.dtype).removeprefix("torch.")
        raise FvfastError(f"a direction is real numbers [C], one a channel, not {kind} of shape {list(found.shape)}")
    found = found.detach().float()
    if not found.is_meta and not found.isfinite().all():
        raise FvfastError("a direction has finite numbers only, not inf or nan")
    return found


def _check_channel(layer: Layer, channel: int) -> None:
    if not 0 <= channel < layer.channels:
        raise FvfastError(f"{layer.name} has channels 0-{layer.channels - 1}, not {channel}")


# The public names ------------------------------------------------------------------------------------------


def channel(layer: str, channel: int) -> Objective:
    """Mean activation of `channel` in `layer` over all positions (tokens count as positions)."""
    return Channel(layer, channel)


def neuron(
    layer: str, channel: int, y: int | None = None, x: int | None = None, *, token: int | str | None = None
) -> Objective:
    """Activation of `channel` at row y, column x of `layer`'s grid; at its centre by default.

    token: at one of a transformer's tokens instead: "cls" for the class token, or a number from 0, in which class
    and register tokens count.
    """
    return Neuron(layer, channel, y, x, token)


def layer(name: str) -> Objective:
    """Mean square of a whole layer."""
    return WholeLayer(name)


def logit(index: int) -> Objective:
    """The network's own output at `index`, before any softmax."""
    return Channel(LOGITS, index)


def direction(layer: str, vector: Tensor | Sequence[float], power: float = 0.0) -> Objective:
    """Mean over positions of dot(activation, vector) * max(0.1, cosine)^power. vector: [C]."""
    return Direction(layer, vector, power)  # pyright: ignore[reportArgumentType] (settled there)


def diversity(layer: str) -> Objective:
    """Minus the mean cosine between the Gram matrices of the images rendered for one objective."""
    return Diversity(layer)


def total_variation() -> Objective:
    """Mean absolute difference between neighbouring pixels. Subtract it to smooth."""
    return TotalVariation()


def l1(middle: float = 0.5) -> Objective:
    """Mean absolute distance of the pixels from `middle`. Subtract it to keep contrast down."""
    return Norm(1, middle)


def l2(middle: float = 0.5) -> Objective:
    """Mean square distance of the pixels from `middle`. Subtract it to keep contrast down."""
    return Norm(2, middle)


def blur(sigma: float = 1.0) -> Objective:
    """Mean square distance between the image and its Gaussian blur (sigma in pixels). Subtract it."""
    return Blur(sigma)
