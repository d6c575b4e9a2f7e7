"""`lucent.modelzoo`: torchvision's models by name, `from fvfast.compat.lucent.modelzoo import googlenet`."""

from __future__ import annotations

from typing import Any

from fvfast.compat.lucent.modelzoo import util as util
from fvfast.errors import FvfastError


def inceptionv1(*args: Any, **options: Any) -> Any:
    """Raises FvfastError: lucent's InceptionV1 belongs to lucent."""
    raise FvfastError(
        "InceptionV1 is lucent's own network: take its class from an installed lucent (render_vis knows how to feed "
        "it), or torchvision's googlenet, where mixed4a is called inception4a"
    )


def __getattr__(name: str) -> Any:
    # Importing torchvision.models takes seconds, so only who asks for one waits.
    from torchvision import models

    if name == "__all__":  # `from ...modelzoo import *`
        return ["inceptionv1", "util", *(public for public in vars(models) if not public.startswith("_"))]
    try:
        return getattr(models, name)
    except AttributeError:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}") from None
