"""`lucent.optvis.param.color`: from any numbers to colours in 0..1."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from fvfast.images import COLOUR

# ImageNet's colour covariance, its square root, as lucid has it.
color_correlation_svd_sqrt = np.array([[0.26, 0.09, 0.02], [0.27, 0.00, -0.05], [0.27, -0.09, 0.03]], np.float32)
max_norm_svd_sqrt = np.max(np.linalg.norm(color_correlation_svd_sqrt, axis=0))
color_correlation_normalized = color_correlation_svd_sqrt / max_norm_svd_sqrt
color_mean = [0.48, 0.46, 0.41]


class Rgb:
    """A sigmoid of what `source` makes, its channels mixed before by ImageNet's colour statistics or not."""

    def __init__(self, source: Callable[[], Tensor], decorrelate: bool) -> None:
        self.source, self.decorrelate = source, decorrelate

    def __call__(self) -> Tensor:
        image = self.source()
        if self.decorrelate:
            image = torch.einsum("oc,bchw->bohw", COLOUR.to(image), image)
        return torch.sigmoid(image)


def to_valid_rgb(image_f: Callable[[], Tensor], decorrelate: bool = False) -> Rgb:
    """A function that makes images [B, C, H, W] in 0..1 of those that `image_f` makes."""
    return Rgb(image_f, decorrelate)
