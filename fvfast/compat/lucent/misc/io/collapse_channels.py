"""`lucent.misc.io.collapse_channels`: arrays of many channels in three, each channel a hue of its own."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from fvfast.errors import FvfastError

Array = np.ndarray[Any, Any]

# Red, yellow, green, cyan, blue and magenta, 60 degrees apart, as unit vectors.
_CORNERS = np.array([[1, 0, 0], [1, 1, 0], [0, 1, 0], [0, 1, 1], [0, 0, 1], [1, 0, 1]], float)
_CORNERS /= np.linalg.norm(_CORNERS, axis=1, keepdims=True)


def hue_to_rgb(ang: float, warp: bool = True) -> Array:
    """The unit vector [3] of a hue in degrees. warp: keep away from the primary colours, so that hues differ more."""
    at, between = divmod(ang % 360 / 60, 1)
    before, after = _CORNERS[int(at)], _CORNERS[(int(at) + 1) % 6]
    if warp:
        bend = math.pi / 2
        between = math.sin(bend * between) if at % 2 == 0 else 1 - math.sin(bend * (1 - between))
    mixed = (1 - between) * before + between * after
    return mixed / np.linalg.norm(mixed)


def sparse_channels_to_rgb(array: Array) -> Array:
    """Channels [..., C] of 0 or more as [..., 3]: each its hue, whiter where several are large; lengths are kept."""
    if (array < 0).any():
        raise FvfastError("channels must be 0 or more: collapse_channels takes both signs")
    count = array.shape[-1]
    hues = np.stack([hue_to_rgb(360 * channel / count) for channel in range(count)])  # [C, 3]
    rest = array.sum(-1, keepdims=True) - array.max(-1, keepdims=True)
    colour = array @ hues + rest
    colour = colour / (1e-4 + np.linalg.norm(colour, axis=-1, keepdims=True))
    return colour * np.linalg.norm(array, axis=-1, keepdims=True)


def collapse_channels(array: Array) -> Array:
    """Channels [..., C] as [..., 3]. Where some are negative, each channel has two hues, opposite one another."""
    if (array < 0).any():
        array = np.concatenate([np.maximum(0, array), np.maximum(0, -array)], axis=-1)
    return sparse_channels_to_rgb(array)
