"""The frames of a film of an optimisation: every image of a render, side by side, as far as it had come."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import numpy as np
import torch
from torch import Tensor

from fvfast import files, planes

GAP = 4  # pixels between images
FRAMES = 97  # of a film: 96 stretches of time, about five seconds


def grid(frames: Sequence[Sequence[tuple[int, Tensor]]], channels: int = 3) -> Iterator[Tensor]:
    """Frames [3, h, w] in 0..1, one for each step at which some image has one.

    frames: for every image its (step, [C, H, W] in 8 bits), in order; between two the earlier stands. channels: of the
    images; frames with one more have an opacity.
    """
    steps = sorted({step for image in frames for step, _ in image})
    height, width = _seen(frames[0][0][1], channels).shape[-2:]
    columns = min(len(frames), max(1, math.ceil(math.sqrt(len(frames) * 1.6))))
    columns = math.ceil(len(frames) / math.ceil(len(frames) / columns))
    rows = math.ceil(len(frames) / columns)
    at = [0] * len(frames)
    paper = torch.tensor(files.PAPER) / 255
    for step in steps:
        page = paper[:, None, None].expand(3, rows * (height + GAP) - GAP, columns * (width + GAP) - GAP).clone()
        for i, image in enumerate(frames):
            while at[i] + 1 < len(image) and image[at[i] + 1][0] <= step:
                at[i] += 1
            y, x = (i // columns) * (height + GAP), (i % columns) * (width + GAP)
            page[:, y : y + height, x : x + width] = _seen(image[at[i]][1], channels)
        yield page


def _seen(frame: Tensor, channels: int) -> Tensor:
    """A frame [C, H, W] in 8 bits as it is shown, [3, h, w] in 0..1. channels: of the image, without an opacity."""
    pixels = frame.float() / 255
    if len(pixels) > channels:
        paper = torch.tensor(files.PAPER)[:, None, None] / 255
        pixels = pixels[:channels] * pixels[channels] + paper * (1 - pixels[channels])
    if planes.colours(channels):
        return pixels.expand(3, -1, -1)
    return torch.from_numpy(np.array(planes.side_by_side(pixels))).permute(2, 0, 1).float() / 255
