"""When an image is finished: its objective has stopped rising."""

from __future__ import annotations

import torch
from torch import Tensor


def reached(history: Tensor, count: Tensor, patience: int, tolerance: float) -> Tensor:
    """Which images have reached a plateau after `count` steps, [B] bool.

    history: [steps, B], the objective of each step's view. With m(i) the mean over steps i .. i + patience - 1, an
    image has, once it took 3 patience steps, where

        m(count - patience) - m(count - 2 patience) < tolerance * |m(count - patience) - m(0)|

    or where nothing has changed since the first step: the last window rose over the one before it by less than
    `tolerance` of the whole rise since the first. Means, because every step sees another view. All on the device of
    `history`, with no decision by the host.
    """
    if len(history) < 3 * patience:  # it will not take so many
        return history.new_zeros(history.shape[1], dtype=torch.bool)
    window = torch.arange(patience, device=history.device)
    last = (count - patience + window).clamp(min=0)
    earlier = (count - 2 * patience + window).clamp(min=0)
    recent, before, first = (history.index_select(0, rows).mean(0) for rows in (last, earlier, window))  # [B] each
    flat = (recent - before < tolerance * (recent - first).abs()) | ((recent == before) & (recent == first))
    return flat & (count >= 3 * patience)
