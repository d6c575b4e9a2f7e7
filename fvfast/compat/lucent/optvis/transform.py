"""`lucent.optvis.transform`: random changes under which a feature must survive.

Each transform is called with images [B, C, H, W] and gives images. Those that move an image also say how, as an affine
map: `render_vis` multiplies the maps of a whole list and samples once where lucent samples again and again. Random
choices come from numpy's global state, in lucent's order, so `numpy.random.seed` repeats them.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch.nn.functional as F
from fvfast_kernels import warp
from torch import Tensor, from_numpy

from fvfast.errors import FvfastError
from fvfast.models import IMAGENET_MEAN, IMAGENET_STD

Array = np.ndarray[Any, np.dtype[np.float64]]


class Move(ABC):
    """A transform that puts pixels elsewhere."""

    @abstractmethod
    def draw(self, height: int, width: int) -> tuple[Array, int, int]:
        """One random choice for a frame of this size: (map [3, 3], new height, new width).

        The map takes (row, column, 1) of a new pixel to its place in the old frame, both counted from the first.
        """

    def __call__(self, image: Tensor) -> Tensor:
        height, width = image.shape[2:]
        matrix, tall, wide = self.draw(height, width)
        rows = centred(matrix, (height, width), (tall, wide))
        return warp(image, from_numpy(rows).float().to(image.device).expand(len(image), 2, 3), (tall, wide), border=0.0)


def centred(matrix: Array, old: tuple[int, int], new: tuple[int, int]) -> Array:
    """A map [3, 3] of pixels counted from the first, as `fvfast_kernels.warp` takes it, [2, 3]: from the centres."""
    out_middle = np.array([(new[0] - 1) / 2, (new[1] - 1) / 2, 1.0])
    in_middle = np.array([(old[0] - 1) / 2, (old[1] - 1) / 2])
    return np.column_stack([matrix[:2, :2], matrix[:2] @ out_middle - in_middle])


class Jitter(Move):
    def __init__(self, d: int) -> None:
        if d < 2:
            raise FvfastError(f"jitter takes 2 pixels or more, not {d}")
        self.d = d

    def draw(self, height: int, width: int) -> tuple[Array, int, int]:
        dx = np.random.choice(self.d)
        dy = np.random.choice(self.d)
        return np.array([[1.0, 0.0, -dy], [0.0, 1.0, -dx], [0.0, 0.0, 1.0]]), height, width


class Scale(Move):
    """Resized with aligned corners; what became smaller is put in the middle of a frame of zeros."""

    def __init__(self, scales: Sequence[float]) -> None:
        self.scales = list(scales)

    def draw(self, height: int, width: int) -> tuple[Array, int, int]:
        scale = np.random.choice(self.scales)
        matrix, new = np.eye(3), [0, 0]
        for axis, size in enumerate((height, width)):
            scaled = int(np.ceil(scale * size))
            margin = max(0, int(np.ceil((size - scaled) / 2)))
            step = (size - 1) / max(1, scaled - 1)
            matrix[axis, axis], matrix[axis, 2] = step, -margin * step
            new[axis] = scaled + 2 * margin
        return matrix, new[0], new[1]


class Rotate(Move):
    """Turned about the middle, counter-clockwise for positive angles; zeros where nothing was."""

    def __init__(self, angles: Sequence[float], units: str) -> None:
        if units.lower() not in ("degrees", "radians", "rads", "rad"):
            raise FvfastError(f"random_rotate takes degrees or radians, not {units!r}")
        self.angles, self.degrees = list(angles), units.lower() == "degrees"

    def draw(self, height: int, width: int) -> tuple[Array, int, int]:
        choice = float(np.random.choice(self.angles))
        angle = np.deg2rad(choice) if self.degrees else choice
        cos, sin = np.cos(angle), np.sin(angle)
        y, x = (height - 1) / 2, (width - 1) / 2
        back = np.array([[cos, sin, y - cos * y - sin * x], [-sin, cos, x + sin * y - cos * x], [0.0, 0.0, 1.0]])
        return back, height, width


class Resize(Move):
    """To `size` pixels, bilinearly, with aligned corners: what `render_vis` does to images below 224 px."""

    def __init__(self, size: int | tuple[int, int]) -> None:
        self.size = (size, size) if isinstance(size, int) else (size[0], size[1])

    def draw(self, height: int, width: int) -> tuple[Array, int, int]:
        steps = [(old - 1) / max(1, new - 1) for old, new in zip((height, width), self.size, strict=True)]
        return np.diag([*steps, 1.0]), *self.size


class Pad:
    """A margin around the image."""

    def __init__(self, width: int, mode: str, value: float) -> None:
        self.width, self.mode, self.value = width, mode, value

    def __call__(self, image: Tensor) -> Tensor:
        return F.pad(image, [self.width] * 4, mode=self.mode, value=self.value)


class Normalise:
    """(image - mean) / std, each a number for every channel."""

    def __init__(self, mean: Sequence[float], std: Sequence[float]) -> None:
        self.mean, self.std = tuple(mean), tuple(std)

    def __call__(self, image: Tensor) -> Tensor:
        mean, std = (image.new_tensor(values)[:, None, None] for values in (self.mean, self.std))
        return (image - mean) / std


# lucent's names --------------------------------------------------------------------------------------------


def jitter(d: int) -> Jitter:
    """Shift right and down by 0 to d - 1 pixels each."""
    return Jitter(d)


def pad(w: int, mode: str = "reflect", constant_value: float = 0.5) -> Pad:
    """Add `w` pixels at every edge; the value counts for the mode "constant" only."""
    return Pad(w, mode, constant_value if mode == "constant" else 0.0)


def random_scale(scales: Sequence[float]) -> Scale:
    """Resize by one of `scales`."""
    return Scale(scales)


def random_rotate(angles: Sequence[float], units: str = "degrees") -> Rotate:
    """Rotate by one of `angles`."""
    return Rotate(angles, units)


def compose(transforms: Sequence[Callable[[Tensor], Tensor]]) -> Callable[[Tensor], Tensor]:
    """One transform that does all, in order."""

    def composed(image: Tensor) -> Tensor:
        for transform in transforms:
            image = transform(image)
        return image

    return composed


def normalize() -> Normalise:
    """ImageNet's mean and standard deviation, as torchvision's models expect."""
    return Normalise(IMAGENET_MEAN, IMAGENET_STD)


def preprocess_inceptionv1() -> Normalise:
    """From 0..1 to -117..138, as the InceptionV1 of lucid and lucent expects."""
    return Normalise((117 / 255,) * 3, (1 / 255,) * 3)


standard_transforms = [
    pad(12, mode="constant", constant_value=0.5),
    jitter(8),
    random_scale([1 + (i - 5) / 50.0 for i in range(11)]),
    random_rotate([*range(-10, 11), 0, 0, 0, 0, 0]),
    jitter(4),
]
