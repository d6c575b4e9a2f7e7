"""The frames of a film of an optimisation: every image of a render, side by side, as far as it had come."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from fvfast import files

GAP = 4  # pixels between images
FRAMES = 97  # of a film: 96 stretches of time, about five seconds


def grid(frames: Sequence[Sequence[tuple[int, Tensor]]]) -> Iterator[Tensor]:
    """Frames [3, h, w] in 0..1, one for each step at which some image has one.

    frames: for every image its (step, [3 or 4, H, W] in 8 bits), in order; between two the earlier stands.
    """
    steps = sorted({step for image in frames for step, _ in image})
    size = frames[0][0][1].shape[-1]
    columns = min(len(frames), max(1, math.ceil(math.sqrt(len(frames) * 1.6))))
    columns = math.ceil(len(frames) / math.ceil(len(frames) / columns))
    rows = math.ceil(len(frames) / columns)
    at = [0] * len(frames)
    paper = torch.tensor(files.PAPER) / 255
    for step in steps:
        page = paper[:, None, None].expand(3, rows * (size + GAP) - GAP, columns * (size + GAP) - GAP).clone()
        for i, image in enumerate(frames):
            while at[i] + 1 < len(image) and image[at[i] + 1][0] <= step:
                at[i] += 1
            y, x = (i // columns) * (size + GAP), (i % columns) * (size + GAP)
            pixels = image[at[i]][1].float() / 255
            if len(pixels) == 4:
                pixels = pixels[:3] * pixels[3] + paper[:, None, None] * (1 - pixels[3])
            page[:, y : y + size, x : x + size] = pixels
        yield page
