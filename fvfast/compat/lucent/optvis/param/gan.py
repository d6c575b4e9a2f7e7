"""`lucent.optvis.param.gan`."""

from __future__ import annotations

from typing import Any, NoReturn

from fvfast.errors import FvfastError


def upconvGAN(*args: Any, **options: Any) -> NoReturn:
    """Raises FvfastError: the weights of lucent's generator are no longer to be had."""
    raise FvfastError("lucent's upconvGAN has lost its weights: fvfast.render(image='generator:biggan-deep-256')")
