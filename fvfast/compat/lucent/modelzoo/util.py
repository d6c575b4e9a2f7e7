"""`lucent.modelzoo.util`."""

from __future__ import annotations

from collections import OrderedDict

from torch import nn


def get_model_layers(model: nn.Module, getLayerRepr: bool = False) -> list[str] | OrderedDict[str, str]:
    """Every layer by lucent's name, parts joined by underscores; with `getLayerRepr`, what each layer is."""
    found = OrderedDict(
        (name.replace(".", "_"), repr(child)) for name, child in model.named_modules(remove_duplicate=False) if name
    )
    return found if getLayerRepr else list(found)
