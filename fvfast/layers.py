"""What a network is made of, and how to read its layers while it runs."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from fvfast.channels import counted, taken
from fvfast.errors import FvfastError, did_you_mean, is_out_of_memory

LOGITS = "logits"
UNFOLDED = "fvfast_unfolded"  # where a folded convolution keeps itself as it was, for the sake of who wants its output


@dataclass(frozen=True)
class Layer:
    """A module's output, as a target may name it.

    name: its dotted module name; kind: its class.
    channels, height, width: its size for one image; height and width are None where it has no grid.
    tokens: how many positions a token output (B, T, C) has, else None.
    channels_last: whether channels are the last axis (token outputs; (B, H, W, C) maps).
    calls: how often it runs in one forward pass; its last output counts.
    """

    name: str
    kind: str
    channels: int
    height: int | None
    width: int | None
    tokens: int | None
    channels_last: bool
    calls: int

    def standard(self, output: Tensor) -> Tensor:
        """The output as [B, C, H, W]; tokens become [B, C, T, 1], vectors [B, C, 1, 1]. A view, no copy."""
        if output.dim() == 4:
            return output.permute(0, 3, 1, 2) if self.channels_last else output
        if output.dim() == 3:
            return output.transpose(1, 2)[..., None]
        return output[..., None, None]

    def original(self, standard: Tensor) -> Tensor:
        """What `standard` was made of: the output as the module gave it."""
        if self.tokens is not None:
            return standard[..., 0].transpose(1, 2)
        if self.height is None:
            return standard[..., 0, 0]
        return standard.permute(0, 2, 3, 1) if self.channels_last else standard

    def position(self, y: int, x: int) -> tuple[int, int]:
        """Where grid position (y, x) lies in the last two axes of `standard`."""
        if self.tokens is None or self.width is None or self.height is None:
            return y, x
        # Class and register tokens come before the patch grid.
        return self.tokens - self.height * self.width + y * self.width + x, 0


def trace(module: nn.Module, size: int, inputs: int = 3) -> dict[str, Layer]:
    """Run one square image through `module` (in eval mode) and describe every layer, in the order of the forward pass.

    inputs: the image's channels. Returns a dictionary by name; the network's own output is `logits`. Raises whatever
    the network raises.
    """
    calls: dict[str, int] = {}
    found: dict[str, Layer] = {}

    def observe(name: str, child: nn.Module, inputs: Any, output: Any) -> None:
        if child is not module:
            keep(name, type(child).__name__, output)

    def keep(name: str, kind: str, output: Any) -> None:
        tensor = first_tensor(output)
        calls[name] = calls.get(name, 0) + 1
        found.pop(name, None)  # a layer that runs again counts where it ran last
        if tensor is None or tensor.dim() not in (2, 3, 4) or len(tensor) != 1:
            return
        found[name] = _describe(name, kind, tensor, calls[name])

    parameter = next(module.parameters(), torch.zeros(()))
    image = torch.randn(1, inputs, size, size, generator=torch.Generator().manual_seed(0))
    output = watched(module, image.to(parameter), observe)
    if LOGITS not in found:
        keep(LOGITS, "output", output)
    return found


def watched(
    module: nn.Module,
    image: Tensor,
    see: Callable[[str, nn.Module, tuple[Any, ...], Any], None],
    which: Callable[[nn.Module], bool] = lambda child: True,
) -> Any:
    """What a module puts out for an image, without gradients.

    see: told (name, child, inputs, output) of every run of a child, the module among them, for which `which` holds.
    """
    handles = [
        child.register_forward_hook(lambda m, given, output, name=name: see(name, m, given, output))
        for name, child in module.named_modules()
        if which(child)
    ]
    try:
        with torch.no_grad():
            return module(image)
    finally:
        for handle in handles:
            handle.remove()


def input_size(module: nn.Module, size: int, native: int, name: str, inputs: int = 3) -> tuple[int, dict[str, Layer]]:
    """The size of view that suits a canvas of `size` pixels, and the layers at that size.

    That is the canvas's own size, except where the network takes only one (a vision transformer): then it is that
    one, and views are zoomed. inputs: the image's channels. Raises FvfastError where the network cannot take images so
    small, or of so many channels.
    """
    try:
        return size, trace(module, size, inputs)
    except Exception as error:  # networks refuse sizes with every kind of exception
        if is_out_of_memory(error):
            raise
        refusal = error
    try:
        layers = trace(module, native, inputs)
    except Exception:
        found = taken(module, native)
        if found not in (inputs, None):
            raise FvfastError(
                f"{name} takes images of {counted(found)}, and its mean and std are for {inputs}: load it with "
                f"fvfast.load(..., mean=..., std=...) of {found} numbers each, or one"
            ) from refusal
        raise refusal from None  # it fails at its own size too: a bug, which keeps its traceback
    try:
        trace(module, native + 64, inputs)
    except Exception:
        return native, layers
    larger = range(size // 8 * 8 + 8, native, 8)
    fitting = next(
        (s for s in (*larger, max(native, size // 32 * 32)) if s != size and _takes(module, s, inputs)), native
    )
    raise FvfastError(f"{name} cannot take images of {size} px; use --size {fitting}") from refusal


def _takes(module: nn.Module, size: int, inputs: int) -> bool:
    try:
        trace(module, size, inputs)
    except Exception:
        return False
    return True


def find(layers: Mapping[str, Layer], name: str, model: str) -> Layer:
    """The layer called `name`, or an FvfastError with the nearest names."""
    if name in layers:
        return layers[name]
    raise FvfastError(
        f"{model} has no layer {name!r} with a tensor output{did_you_mean(name, layers)}; see `fvfast layers {model}`"
    )


def first_tensor(output: Any) -> Tensor | None:
    """The tensor that a module's output is, or holds first (attention returns (output, weights))."""
    if isinstance(output, Tensor):
        return output
    if isinstance(output, Mapping):
        output = list(output.values())
    if isinstance(output, (tuple, list)):
        return next((t for t in map(first_tensor, output) if t is not None), None)
    return None


def _describe(name: str, kind: str, tensor: Tensor, calls: int) -> Layer:
    shape = tuple(tensor.shape[1:])
    if len(shape) == 1:
        return Layer(name, kind, shape[0], None, None, None, False, calls)
    if len(shape) == 2:
        tokens, channels = shape
        # A class token (1), or one with registers or a distillation token, before a square grid of patches.
        side = int(tokens**0.5)
        grid = side if side > 1 and 0 <= tokens - side * side <= 5 else None
        return Layer(name, kind, channels, grid, grid, tokens, True, calls)
    # The image is square, so the two equal axes are the spatial ones. (C, H, W) wins where all three are equal.
    if shape[0] == shape[1] != shape[2]:
        height, width, channels = shape
        return Layer(name, kind, channels, height, width, None, True, calls)
    channels, height, width = shape
    return Layer(name, kind, channels, height, width, None, False, calls)


class _Stop(Exception):
    """Ends a forward pass once every wanted layer has been seen."""


class Tap:
    """Runs a module and hands out what some of its layers put out; the pass ends at the deepest of them.

    One Tap serves several threads at once: each call says which layers it wants. `close` (or leaving the `with`
    block) removes every hook.
    """

    def __init__(self, module: nn.Module, layers: Mapping[str, Layer], names: Iterable[str]) -> None:
        self.module = module
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
            self._run.got[name] = first_tensor(output) if unfolded is None else unfolded(*inputs)
            left[name] -= 1
            if left[name] == 0:
                del left[name]
            if not left:
                raise _Stop
            # What follows may work in place (`out += identity`): it gets a copy, the kept tensor stays as it was.
            return output.clone() if isinstance(output, Tensor) else None

        return keep

    def __call__(self, image: Tensor, names: Iterable[str] | None = None) -> dict[str, Tensor]:
        """Outputs of the layers `names` (default all), each [B, C, H, W] as `Layer.standard` lays out.

        image: [B, C, H, W], normalised.
        """
        wanted = list(self.layers) if names is None else list(names)
        self._run.left = {name: self.layers[name].calls for name in wanted}
        self._run.got = {}
        try:
            output = first_tensor(self.module(image))
            if LOGITS in self._run.left and output is not None:
                self._run.got[LOGITS] = output
        except _Stop:
            pass
        finally:
            self._run.left = None
        got = self._run.got
        self._run.got = {}
        return {name: self.layers[name].standard(got[name]) for name in wanted}

    def close(self) -> None:
        for handle in self._handles:
            handle.remove()
        self._handles = []

    def __enter__(self) -> Tap:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()
