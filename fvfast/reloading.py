"""Networks loaded again, by the words that a PNG or a store has kept of them."""

from __future__ import annotations

from fvfast import models
from fvfast.errors import FvfastError
from fvfast.models import Model

GIVEN = "given"  # what stands for the weights of a network that was handed over in Python


def reload(name: str, weights: str, what: str, cure: str) -> Model:
    """Load a network again. Raises FvfastError where it was given in Python, or is not to be had here.

    what: that it made, for people; cure: what can be done instead.
    """
    if weights == GIVEN:
        raise FvfastError(f"{what} was made from a network that was given in Python ({name}): {cure}")
    try:
        return models.load(name, weights)
    except FvfastError as error:
        raise FvfastError(f"{what} was made from {name}, which cannot be loaded here ({error}): {cure}") from error
