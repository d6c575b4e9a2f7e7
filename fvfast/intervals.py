"""How sure a mean is: bootstrap intervals."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch

RESAMPLES = 2000
LEVEL = 0.95


@dataclass(frozen=True)
class Interval:
    """A mean of `count` values and the interval that holds the true one with a probability of 95 %.

    low and high are None for fewer than two values, from which nothing can be told.
    """

    mean: float
    low: float | None
    high: float | None
    count: int


def interval(values: Sequence[float | None], seed: int = 0) -> Interval | None:
    """The mean of values and its percentile bootstrap interval (Efron 1979); None and NaN are left out.

    2,000 resamples from a generator of `seed`: the same values give the same interval. Values must be independent:
    several of one feature are averaged first. None where nothing is left.
    """
    plain = [value for value in values if value is not None and math.isfinite(value)]
    if not plain:
        return None
    data = torch.tensor(plain, dtype=torch.float64)
    mean = float(data.mean())
    if len(plain) < 2:
        return Interval(mean, None, None, 1)
    generator = torch.Generator().manual_seed(seed)
    draws = torch.randint(len(plain), (RESAMPLES, len(plain)), generator=generator)
    ends = torch.tensor([(1 - LEVEL) / 2, (1 + LEVEL) / 2], dtype=torch.float64)
    low, high = data[draws].mean(1).quantile(ends).tolist()
    return Interval(mean, low, high, len(plain))
