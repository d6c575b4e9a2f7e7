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
    from fvfast.activation_atlases import ActivationAtlas as ActivationAtlas
    from fvfast.activation_atlases import activation_atlas as activation_atlas
    from fvfast.atlases import AtlasProgress as AtlasProgress
    from fvfast.atlases import AtlasResult as AtlasResult
    from fvfast.atlases import atlas as atlas
    from fvfast.dream_animations import DreamtAnimation as DreamtAnimation
    from fvfast.dream_animations import dream_animation as dream_animation
    from fvfast.dreaming import Dream as Dream
    from fvfast.dreaming import dream as dream
    from fvfast.errors import FvfastError as FvfastError
    from fvfast.generators import Generator as Generator
    from fvfast.keeping import keep as keep
    from fvfast.models import Model as Model
    from fvfast.models import load as load
    from fvfast.recipes import RECIPES as RECIPES
    from fvfast.recipes import Recipe as Recipe
    from fvfast.rendering import render as render
    from fvfast.result import Progress as Progress
    from fvfast.result import Render as Render
    from fvfast.store import Entry as Entry
    from fvfast.store import Query as Query
    from fvfast.store import Store as Store
    from fvfast.store import Trace as Trace
    from fvfast.views import Views as Views

# Importing torch takes seconds; `fvfast --help` should not.
_HOMES = {
    "ActivationAtlas": "activation_atlases",
    "activation_atlas": "activation_atlases",
    "AtlasProgress": "atlases",
    "AtlasResult": "atlases",
    "atlas": "atlases",
    "Dream": "dreaming",
    "DreamtAnimation": "dream_animations",
    "dream_animation": "dream_animations",
    "dream": "dreaming",
    "FvfastError": "errors",
    "Generator": "generators",
    "keep": "keeping",
    "Model": "models",
    "load": "models",
    "RECIPES": "recipes",
    "Recipe": "recipes",
    "Progress": "result",
    "Render": "result",
    "render": "rendering",
    "Entry": "store",
    "Query": "store",
    "Store": "store",
    "Trace": "store",
    "Views": "views",
}
__all__ = [
    "RECIPES",
    "ActivationAtlas",
    "AtlasProgress",
    "AtlasResult",
    "Dream",
    "DreamtAnimation",
    "Entry",
    "FvfastError",
    "Generator",
    "Model",
    "Progress",
    "Query",
    "Recipe",
    "Render",
    "Store",
    "Trace",
    "Views",
    "activation_atlas",
    "atlas",
    "dream",
    "dream_animation",
    "keep",
    "load",
    "render",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'fvfast' has no attribute {name!r}")
    value = getattr(importlib.import_module(f"fvfast.{_HOMES[name]}"), name)
    globals()[name] = value
    return value
