"""Real photographs to compare with, from where some lie on this machine already: nothing is downloaded."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import numpy as np
import PIL.Image
import torch
from torch import Tensor

SOURCE = "six squares of china.jpg and flower.jpg, which come with scikit-learn"
# Field, "Relations between the statistics of natural images and the response properties of cortical cells", 1987
LITERATURE_SLOPE = -2.0


def photographs(size: int) -> Tensor | None:
    """Squares of scikit-learn's two sample photographs, [6, 3, S, S] in 0..1; None where it is not installed.

    Each is as high as its photograph (427 px), from the left, the middle and the right, resampled to S = `size` or, as
    nothing natural comes of making a photograph larger, to no more than it has.
    """
    package = importlib.util.find_spec("sklearn")  # found, not imported: that takes a second
    folder = Path(package.origin).parent / "datasets" / "images" if package and package.origin else None
    if folder is None or not (folder / "china.jpg").is_file():
        return None
    squares = []
    for name in ("china.jpg", "flower.jpg"):
        with PIL.Image.open(folder / name) as file:
            picture = file.convert("RGB")
        side = min(picture.size)
        small = min(size, side)
        for left in (0, (picture.width - side) // 2, picture.width - side):
            square = picture.crop((left, 0, left + side, side)).resize((small, small), PIL.Image.Resampling.LANCZOS)
            squares.append(torch.from_numpy(np.array(square)).permute(2, 0, 1).float() / 255)
    return torch.stack(squares)
