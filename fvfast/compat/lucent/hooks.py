"""`ModuleHook` and `hook_model`: what the user's own network put out when it last ran, while somebody looks.

lucent leaves a hook on every layer. Here they go with the object that holds them, at the latest when it is collected.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from fvfast.errors import FvfastError, did_you_mean


class ModuleHook:
    """Keeps what a module put out when it last ran, in `features`; `module` is that module, None before it ran."""

    def __init__(self, module: nn.Module) -> None:
        self.module: nn.Module | None = None
        self.features: Any = None
        if isinstance(module, torch.jit.ScriptModule):
            raise FvfastError("a TorchScript module takes no hooks: hand over the module that it was made from")
        self.hook = module.register_forward_hook(_Watch(self))
        weakref.finalize(self, self.hook.remove).atexit = False

    def hook_fn(self, module: nn.Module, input: Any, output: Any) -> None:
        self.module, self.features = module, output

    def close(self) -> None:
        """Take the hook off the module; what it kept stays."""
        self.hook.remove()


class _Watch:
    """The hook itself. It does not keep its `ModuleHook` alive, and stays behind when a network is copied or saved."""

    def __init__(self, hook: ModuleHook) -> None:
        self.hook = weakref.ref(hook)

    def __call__(self, module: nn.Module, input: Any, output: Any) -> Any:
        hook = self.hook()
        if hook is None:
            return None
        hook.hook_fn(module, input, output)
        # What follows may write into what it is given (an in-place ReLU, `out += x`): it is given a copy.
        return output.clone() if isinstance(output, Tensor) else None

    def __deepcopy__(self, memo: dict[int, Any]) -> Callable[..., None]:
        return _unwatched

    def __reduce__(self) -> tuple[Any, ...]:
        return _nobody, ()


def _nobody() -> Callable[..., None]:
    return _unwatched


def _unwatched(module: nn.Module, input: Any, output: Any) -> None:
    pass


class Hooked:
    """What `hook_model` gives: T(layer). A context manager, if one likes; `close` takes every hook off."""

    def __init__(self, model: nn.Module, image_f: Callable[[], Tensor] | None) -> None:
        self.image_f, self.name, self.output = image_f, type(model).__name__, ModuleHook(model)
        by_module: dict[nn.Module, ModuleHook] = {}
        self.hooks: dict[str, ModuleHook] = {}
        self.dotted: dict[str, str] = {}
        for name, child in model.named_modules(remove_duplicate=False):
            if name:
                by_module[child] = by_module.get(child) or ModuleHook(child)
                self.hooks[name.replace(".", "_")] = by_module[child]
                self.dotted[name] = name.replace(".", "_")

    def __call__(self, layer: str) -> Any:
        """What a layer put out when the network last ran; "labels" is the network's output, "input" the image now."""
        if layer == "input":
            if self.image_f is None:
                raise FvfastError('"input" is what image_f makes: hook_model(model, image_f) was given none')
            return self.image_f()
        name = self.dotted.get(layer, layer)
        if layer != "labels" and name not in self.hooks:
            raise FvfastError(
                f"{self.name} has no layer {layer!r}{did_you_mean(layer, self.hooks)}; "
                "modelzoo.util.get_model_layers(model) lists them"
            )
        found = (self.output if layer == "labels" else self.hooks[name]).features
        if found is None:
            raise FvfastError(
                f"{layer} has not run since hook_model: run the model first, in eval mode (model.to(device).eval())"
            )
        return found

    def close(self) -> None:
        """Take every hook off the model; what they kept stays."""
        for hook in (self.output, *self.hooks.values()):
            hook.close()

    def __enter__(self) -> Hooked:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()


def hook_model(model: nn.Module, image_f: Callable[[], Tensor] | None = None) -> Hooked:
    """A function T of a layer's name: what that layer of `model` put out when the model last ran.

    Layers have lucent's underscored names; torch's dotted ones are understood as well. The model is left as it was once
    T is closed, or is nobody's any more.
    """
    return Hooked(model, image_f)
