"""What is handed over as a network: taken out of its wrappers, and refused where no image can be rendered with it."""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from fvfast.errors import FvfastError

# What only passes its input on, by the name of its class (most of them are made by packages that may not be there), and
# where it keeps the network.
WRAPPERS = {
    "OptimizedModule": "_orig_mod",  # torch.compile
    "DataParallel": "module",
    "DistributedDataParallel": "module",
    "AveragedModel": "module",  # torch.optim.swa_utils
    "ModelEma": "ema",  # timm's
    "ModelEmaV2": "module",
    "ModelEmaV3": "module",
    "_FabricModule": "_original_module",  # Lightning's
}
CHECKPOINTS = (".pth", ".pt", ".ckpt", ".bin", ".safetensors", ".tar", ".pkl", ".h5", ".onnx", ".pt2")
QUANTISED = (
    "torch.ao.nn.quantized",
    "torch.ao.nn.intrinsic.quantized",
    "torch.ao.nn.sparse.quantized",
    "torch.nn.quantized",
    "torch.nn.intrinsic.quantized",
    "torchao.quantization",
    "bitsandbytes",
)


def unwrapped(model: object) -> nn.Module:
    """The network that a module is or wraps, which stays as it is. Raises FvfastError for what is no module."""
    if isinstance(model, type) or not isinstance(model, nn.Module):
        raise FvfastError(f"a network must be a torch.nn.Module, not {described(model)}{cure(model)}")
    seen: set[int] = set()
    while (inside := _inside(model)) is not None and id(model) not in seen:
        seen.add(id(model))
        model = inside
    return model


def _inside(module: nn.Module) -> nn.Module | None:
    for kind in type(module).__mro__:
        if kind.__name__ in WRAPPERS:
            found = getattr(module, WRAPPERS[kind.__name__], None)
            return found if isinstance(found, nn.Module) else None
    return None


def check(module: nn.Module) -> None:
    """Raise FvfastError where a network has parts that cannot be differentiated, or that hold no numbers."""
    kind = type(module).__name__
    for name, child in module.named_modules():
        part = f"the network {kind}" if child is module else f"the layer {name!r} of {kind}"
        if isinstance(child, torch.jit.ScriptModule):
            raise FvfastError(
                f"{part} is TorchScript, whose layers cannot be watched or copied: give the module it was made from"
            )
        if _is_quantised(child):
            raise FvfastError(f"{part} is quantised, which has no gradients: give the network from before quantisation")
    if type(module).forward is nn.Module.forward and "forward" not in vars(module):
        named = {name: sum(p.numel() for p in child.parameters()) for name, child in _parts(module)}
        instead = f"give its .{max(named, key=lambda n: named[n])}" if named else "give a module that has one"
        if isinstance(module, nn.ModuleList):
            instead = "give nn.Sequential(*modules), or the network that runs them"
        raise FvfastError(f"the network {kind} has no forward and cannot run: {instead}")
    for name, value in _tensors(module):
        if is_lazy(value):
            raise FvfastError(
                f"the network {kind} is lazy and {name!r} has no shape yet: run it on an image once before, as in "
                "net(torch.zeros(1, 3, 224, 224))"
            )
        if value.is_meta or type(value).__name__ == "FakeTensor":
            raise FvfastError(
                f"{name!r} of the network {kind} is on the device meta and holds no numbers: make the network outside "
                "of torch.device('meta') and load its weights"
            )
        if type(value).__name__ == "DTensor":
            raise FvfastError(
                f"{name!r} of the network {kind} is spread over several processes: gather its weights in one first"
            )


def _parts(module: nn.Module) -> list[tuple[str, nn.Module]]:
    """The children that can run by themselves and whose tensors have shapes."""
    lazy = any(is_lazy(value) for _, value in _tensors(module))
    children = [] if lazy else list(module.named_children())
    return [(name, child) for name, child in children if type(child).forward is not nn.Module.forward]


def _tensors(module: nn.Module) -> Iterator[tuple[str, Tensor]]:
    yield from module.named_parameters()
    yield from module.named_buffers()


def _is_quantised(module: nn.Module) -> bool:
    if type(module).__module__.startswith(QUANTISED):
        return True
    if isinstance(module, torch.fx.GraphModule):
        targets = (str(node.target) for node in module.graph.nodes if node.op.startswith("call"))
        if any("quantize_per" in target or "quantized" in target for target in targets):
            return True
    for value in (*module.parameters(recurse=False), *module.buffers(recurse=False)):
        if value.is_quantized or type(value.data).__module__.startswith("torchao"):
            return True
        if isinstance(value, nn.Parameter) and value.dtype in (torch.int8, torch.uint8):
            return True
    return False


# What people hand over instead ----------------------------------------------------------------------------


def described(value: object) -> str:
    """`a list`, `the class Net`, `a function`: what a value is, in a few words."""
    if isinstance(value, type):
        return f"the class {value.__name__}"
    if inspect.isroutine(value):
        return f"the function {value.__name__}"
    if value is None:
        return "None"
    home, kind = type(value).__module__.partition(".")[0], type(value).__name__
    full = kind if home in ("builtins", "collections", "pathlib", "__main__") else f"{home}.{kind}"
    return f"{'an' if full[0] in 'aeiouAEIOU' else 'a'} {full}"


def cure(value: object) -> str:
    """`: what to do`, for what was handed over instead of a network; nothing where that is anybody's guess."""
    if isinstance(value, type):
        return f": give an instance, {value.__name__}(...)" if issubclass(value, nn.Module) else ""
    if isinstance(value, Mapping):
        if any(isinstance(entry, Tensor) for entry in value.values()) or any(
            isinstance(entry, Mapping) for entry in value.values()
        ):
            return ": make the network first and load these weights with load_state_dict"
        return _first_of(value.items())
    if isinstance(value, (list, tuple)):
        modules = [entry for entry in value if isinstance(entry, nn.Module)]
        if len(modules) > 1:
            return ": give the one network, or nn.Sequential(*modules)"
        return _first_of(enumerate(value))
    if isinstance(value, torch.export.ExportedProgram):
        return ": give the module that was exported"
    if inspect.isroutine(value):
        call = "" if value.__name__ == "<lambda>" else f", {value.__name__}(...)"
        return f": call it and give what it makes{call}"
    if not hasattr(value, "__dict__"):
        return ""
    held = next((n for n, v in vars(value).items() if isinstance(v, nn.Module) and not n.startswith("_")), None)
    if held is not None:
        return f": give its .{held}"
    known = {kind.__module__.partition(".")[0] for kind in type(value).__mro__}
    if known & {"keras", "tensorflow", "tf_keras", "jax", "flax", "onnx", "onnxruntime", "sklearn", "equinox"}:
        return ": convert it to PyTorch first"
    return ""


def _first_of(items: Any) -> str:
    where = next((key for key, entry in items if isinstance(entry, nn.Module)), None)
    return "" if where is None else f": give the network in it alone, [{where!r}]"


def is_checkpoint_name(name: str) -> bool:
    """Whether what stands in a model's place is the name of a file with weights."""
    return name.lower().endswith(CHECKPOINTS) and (":" not in name or Path(name).is_file())
