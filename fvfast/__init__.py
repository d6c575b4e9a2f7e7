"""fvfast: feature visualisation, fast.

    import fvfast
    result = fvfast.render("efficientnet_lite0", ["_blocks.7:11", "logits:daisy"])
    result.save("renders")

See `render` for everything it takes, and `fvfast.objectives` for what can be maximised.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from fvfast.dreaming import Dream as Dream
    from fvfast.dreaming import dream as dream
    from fvfast.errors import FvfastError as FvfastError
    from fvfast.generators import Generator as Generator
    from fvfast.models import Model as Model
    from fvfast.models import load as load
    from fvfast.recipes import RECIPES as RECIPES
    from fvfast.recipes import Recipe as Recipe
    from fvfast.rendering import render as render
    from fvfast.result import Progress as Progress
    from fvfast.result import Render as Render
    from fvfast.views import Views as Views

# Importing torch takes seconds; `fvfast --help` should not.
_HOMES = {
    "Dream": "dreaming",
    "dream": "dreaming",
    "FvfastError": "errors",
    "Generator": "generators",
    "Model": "models",
    "load": "models",
    "RECIPES": "recipes",
    "Recipe": "recipes",
    "Progress": "result",
    "Render": "result",
    "render": "rendering",
    "Views": "views",
}
__all__ = [
    "RECIPES",
    "Dream",
    "FvfastError",
    "Generator",
    "Model",
    "Progress",
    "Recipe",
    "Render",
    "Views",
    "dream",
    "load",
    "render",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'fvfast' has no attribute {name!r}")
    value = getattr(importlib.import_module(f"fvfast.{_HOMES[name]}"), name)
    globals()[name] = value
    return value
