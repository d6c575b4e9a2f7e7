"""`lucent.util`."""

from __future__ import annotations

import random

import torch


def set_seed(seed: int) -> None:
    """Seed torch and random, and have cuDNN repeat itself. Transforms draw from numpy, which has a seed of its own."""
    torch.manual_seed(seed)
    torch.backends.cudnn.deterministic = True
    random.seed(seed)
