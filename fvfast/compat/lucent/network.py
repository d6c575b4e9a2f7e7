"""The user's network for lucent's objectives: layers by underscored names, on a private copy that is made fast."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from fvfast import prepare, tracing
from fvfast.compat.lucent.optvis.objectives import T
from fvfast.errors import FvfastError, did_you_mean, is_out_of_memory
from fvfast.expressions import Context, Objective
from fvfast.layers import LOGITS, Layer, Tap
from fvfast.pristine import pristine
from fvfast.rendering import pick_device, pick_dtype

Loss = Callable[[T], Any]


class Network:
    """A copy of the user's module, in eval mode, and what its layers are for views of one size.

    The module itself is only read. Layers are found by lucent's names ("inception4a_branch1_conv") and by torch's
    ("inception4a.branch1.conv"); "labels" is the network's output, "input" the image.
    """

    def __init__(self, module: nn.Module, side: int, inputs: int) -> None:
        """side: the longer side of a view in pixels; inputs: its channels. Raises FvfastError where it does not fit."""
        tensor = next(module.parameters(), next(module.buffers(), None))
        self.device = pick_device(None) if tensor is None else tensor.device
        self.dtype = pick_dtype(None, self.device, module)
        self.name, self.side, self.inputs = type(module).__name__, side, inputs
        self.module = pristine(module, self.device)
        try:
            self.layers = tracing.trace(self.module, side, inputs)
        except (RuntimeError, ValueError, AssertionError) as error:
            if is_out_of_memory(error):
                raise
            reason = (str(error).strip() or type(error).__name__).splitlines()[0]
            raise FvfastError(
                f"{self.name} cannot take views of {inputs} channels and {side} px ({reason}): set fixed_image_size"
            ) from error
        self.read: tuple[frozenset[str], bool] = frozenset(), False
        first = {id(child): name for name, child in self.module.named_modules()}
        self.names = {
            name.replace(".", "_"): first[id(child)]
            for name, child in self.module.named_modules(remove_duplicate=False)
            if name
        }

    def find(self, name: str) -> Layer:
        """The layer that an objective calls `name`. Raises FvfastError, with the nearest names."""
        dotted = LOGITS if name == "labels" else self.names.get(name, name)
        if dotted in self.layers:
            return self.layers[dotted]
        if dotted in self.names.values():
            raise FvfastError(f"the layer {name} of {self.name} gives no tensor when the network runs in eval mode")
        raise FvfastError(
            f"{self.name} has no layer {name!r}{did_you_mean(name, self.names)}; "
            "modelzoo.util.get_model_layers(model) lists them"
        )

    def probe(self, loss: Loss, view: Tensor, canvas: Tensor) -> float:
        """A loss of a view; from then on `read` says which layers it looks at, and whether it looks at the image.

        view: [B, C, H, W] as the network sees it; canvas: the images. Raises FvfastError for unknown layers.
        """
        asked: set[str] = set()

        def note(name: str) -> Tensor:
            asked.add(name)
            return canvas if name == "input" else self.find(name).original(found[self.find(name).name])

        with torch.no_grad(), Tap(self.module, self.layers, self.layers) as tap:
            found = tap(view.to(self.device, torch.float32))
            value = float(scalar(loss(note)))
        self.read = frozenset(self.find(name).name for name in asked if name != "input"), "input" in asked
        return value

    def fast(self, names: frozenset[str], wide: bool = False) -> prepare.Fast:
        """The copy made fast for these layers. wide: let its first layer take four channels, if it can."""
        return prepare.prepare(self.module, self.layers, sorted(names), self.side, self.dtype, wide, self.inputs)


class Eager:
    """A network that is run step by step, for losses that may ask for other layers than they did at first."""

    def __init__(self, network: Network, names: frozenset[str]) -> None:
        self.network, self.names = network, names
        self.tap = network.fast(names)

    def loss(self, loss: Loss, view: Tensor, canvas: Tensor) -> Tensor:
        """A loss of a view [B, C, H, W], differentiable."""
        network = self.network
        seen = view.to(network.device, network.dtype)
        found = self.tap(seen, sorted(self.names)) if self.names else {}

        def read(name: str) -> Tensor:
            nonlocal found
            if name == "input":
                return canvas
            layer = network.find(name)
            if layer.name not in found:
                self.close()
                self.names |= {layer.name}
                self.tap = network.fast(self.names)
                found = self.tap(seen, sorted(self.names))
            return layer.original(found[layer.name].float())

        return scalar(loss(read))

    def close(self) -> None:
        self.tap.__exit__()


class Restless(Exception):
    """An objective asked for a layer that it had not read at first."""


class Foreign(Objective):
    """A loss of lucent's as an objective of the engine: its negative, shared out over the batch."""

    def __init__(self, loss: Loss, network: Network, names: frozenset[str]) -> None:
        self.loss, self.network, self.names = loss, network, names

    def value(self, context: Context) -> Tensor:
        def read(name: str) -> Tensor:
            if name == "input":
                return context.canvas
            layer = self.network.find(name)
            if layer.name not in self.names:
                raise Restless
            return layer.original(context[layer.name])

        loss = scalar(self.loss(read))
        name = next(iter(self.names), None)
        count = len(context.canvas if name is None else context.raw(name))
        return (-loss / count).expand(count)

    @property
    def label(self) -> str:
        return getattr(self.loss, "description", "") or getattr(self.loss, "__name__", "objective")

    @property
    def layers(self) -> frozenset[str]:
        return self.names

    @property
    def coupled(self) -> bool:
        return True


def scalar(loss: Any) -> Tensor:
    """A loss as a tensor without axes. Raises FvfastError where it is more than one number."""
    value = torch.as_tensor(loss)
    if value.numel() != 1:
        raise FvfastError(f"an objective gives one number for a batch, not a tensor of shape {tuple(value.shape)}")
    return value.reshape(())
