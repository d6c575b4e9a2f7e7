"""What a network is made of, and how to read its layers while it runs."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, fields, is_dataclass
from typing import Any

import torch
from torch import Tensor, nn

from fvfast import axes
from fvfast.errors import FvfastError, did_you_mean
from fvfast.habits import Habits

LOGITS = "logits"
UNFOLDED = "fvfast_unfolded"  # where a folded convolution keeps itself as it was, for the sake of who wants its output


@dataclass(frozen=True)
class Layer:
    """A module's output, as a target may name it.

    name: its dotted module name; kind: its class.
    channels, height, width: its size for one image; height and width are None where it has no grid.
    tokens: how many positions an output with one axis of them has, else None.
    channels_last: whether channels are the last axis (token outputs; (B, H, W, C) maps).
    calls: how often it runs in one forward pass; its last output counts.
    layout: its axes as `fvfast.axes` writes them; by default what the other fields say.
    sizes: of its axes for one image, where more than two hold positions.
    """

    name: str
    kind: str
    channels: int
    height: int | None
    width: int | None
    tokens: int | None
    channels_last: bool
    calls: int
    layout: str = ""
    sizes: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        if not self.layout:
            maps = "BHWC" if self.channels_last else "BCHW"
            object.__setattr__(
                self, "layout", "BTC" if self.tokens is not None else "BC" if self.height is None else maps
            )

    def standard(self, output: Tensor) -> Tensor:
        """The output as [B, C, H, W]; tokens become [B, C, T, 1], vectors [B, C, 1, 1]. A view where that can be."""
        return axes.standard(output, self.layout)

    def original(self, standard: Tensor) -> Tensor:
        """What `standard` was made of: the output as the module gave it."""
        if not self.sizes:
            return axes.original(standard, self.layout, tuple(self._sizes(standard)))
        return axes.original(standard, self.layout, self.sizes)

    def _sizes(self, standard: Tensor) -> Iterator[int]:
        positions = iter(standard.shape[2:])
        for letter in self.layout:
            yield len(standard) if letter == "B" else standard.shape[1] if letter == "C" else next(positions)

    def position(self, y: int, x: int) -> tuple[int, int]:
        """Where grid position (y, x) lies in the last two axes of `standard`."""
        if self.tokens is None or self.width is None or self.height is None:
            return y, x
        # Class and register tokens come before the patch grid.
        return self.tokens - self.height * self.width + y * self.width + x, 0


class Layers(dict[str, Layer]):
    """The layers of a network that can be named, by name, in the order of the forward pass.

    unnamed: the others, each with the reason; mixed: those whose output for one image depends on the others beside it.
    habits: what the network does besides computing.
    """

    def __init__(self) -> None:
        super().__init__()
        self.unnamed: dict[str, str] = {}
        self.mixed: set[str] = set()
        self.habits = Habits()


def find(layers: Mapping[str, Layer], name: str, model: str) -> Layer:
    """The layer called `name`, or an FvfastError with the nearest names."""
    if name in layers:
        return layers[name]
    if isinstance(layers, Layers) and name in layers.unnamed:
        raise FvfastError(f"the layer {name} of {model} cannot be a target: {layers.unnamed[name]}")
    raise FvfastError(
        f"{model} has no layer {name!r} with a tensor output{did_you_mean(name, layers)}; see `fvfast layers {model}`"
    )


def first_tensor(output: Any) -> Tensor | None:
    """The tensor that a module's output is, or holds first (attention returns (output, weights))."""
    if isinstance(output, Tensor):
        return output
    if isinstance(output, Mapping):
        output = list(output.values())
    if is_dataclass(output) and not isinstance(output, type):
        output = [getattr(output, field.name) for field in fields(output)]
    if isinstance(output, (tuple, list)):
        return next((t for t in map(first_tensor, output) if t is not None), None)
    return None


class _Stop(BaseException):
    """Ends a forward pass once every wanted layer has been seen. No network's `except Exception` may stop it."""


class Tap:
    """Runs a module and hands out what some of its layers put out; the pass ends at the deepest of them.

    One Tap serves several threads at once: each call says which layers it wants. `close` (or leaving the `with`
    block) removes every hook.
    """

    def __init__(
        self,
        module: nn.Module,
        layers: Mapping[str, Layer],
        names: Iterable[str],
        *,
        whole: bool = False,
        channels: int | None = None,
    ) -> None:
        """whole: run every pass to its end, for networks that decide what to run by what they see, or clear at the
        end what they gathered before. channels: how many of the image's channels the module gets, in a copy that it may
        write into; None for the image itself.
        """
        self.module, self.whole, self.channels = module, whole, channels
        self.layers = {name: layers[name] for name in dict.fromkeys(names)}
        self._run = threading.local()
        modules = dict(module.named_modules())
        self._handles = [
            modules[name].register_forward_hook(self._hook(name)) for name in self.layers if name in modules
        ]

    def _hook(self, name: str):
        def keep(module: nn.Module, inputs: Any, output: Any) -> Any:
            left: dict[str, int] | None = getattr(self._run, "left", None)
            if left is None or name not in left:
                return None
            unfolded = getattr(module, UNFOLDED, None)
            found = first_tensor(output) if unfolded is None else unfolded(*inputs)
            left[name] -= 1
            if left[name] <= 0 and not self.whole:
                del left[name]
            # What follows may work in place (`out += identity`): what is kept stays as it was.
            goes_on = bool(left) and unfolded is None
            self._run.got[name] = found.clone() if found is not None and goes_on else found
            if not left:
                raise _Stop

        return keep

    def __call__(self, image: Tensor, names: Iterable[str] | None = None) -> dict[str, Tensor]:
        """Outputs of the layers `names` (default all), each [B, C, H, W] as `Layer.standard` lays out.

        image: [B, C, H, W], normalised.
        """
        wanted = list(self.layers) if names is None else list(names)
        self._run.left = {name: self.layers[name].calls for name in wanted}
        self._run.got = {}
        # In rows, as everybody's images lie: not every network's code takes another order.
        rows = torch.contiguous_format
        seen = image if self.channels is None else image[:, : self.channels].clone(memory_format=rows)
        try:
            output = first_tensor(self.module(seen))
            if LOGITS in self.layers and LOGITS in self._run.left and output is not None:
                self._run.got.setdefault(LOGITS, output)
        except _Stop:
            pass
        finally:
            self._run.left = None
        got = self._run.got
        self._run.got = {}
        if idle := [name for name in wanted if got.get(name) is None]:
            raise FvfastError(f"the layer {idle[0]} does not run for every image, and did not for this one")
        return {name: self.layers[name].standard(got[name]) for name in wanted}

    def close(self) -> None:
        for handle in self._handles:
            handle.remove()
        self._handles = []

    def __enter__(self) -> Tap:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()
