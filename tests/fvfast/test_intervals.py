import math

import pytest
import torch

from fvfast.intervals import Interval, interval


def test_an_interval_holds_the_true_mean_as_often_as_it_says():
    generator = torch.Generator().manual_seed(3)
    hits = 0
    for _ in range(300):
        found = interval((2 + torch.randn(40, generator=generator)).tolist())
        assert found is not None
        assert found.low is not None
        assert found.high is not None
        hits += found.low <= 2 <= found.high
    # 95 % of 300 with a standard error of 1.3 %; the percentile bootstrap of 40 values is about 1 % short
    assert 0.90 <= hits / 300 <= 0.98


def test_its_width_is_the_normal_theorys_for_many_values():
    values = torch.randn(400, generator=torch.Generator().manual_seed(0)).double()
    found = interval(values.tolist())
    assert found is not None
    assert found.low is not None
    assert found.high is not None
    assert found.mean == pytest.approx(values.mean().item(), abs=1e-12)
    # Its ends are quantiles of 2,000 resamples: 3 % of scatter each
    assert found.high - found.low == pytest.approx(2 * 1.96 * values.std().item() / 20, rel=0.1)


def test_what_is_missing_is_left_out():
    assert interval([None, 1.0, math.nan, 3.0]) == interval([1.0, 3.0])
    assert interval([5.0]) == Interval(5.0, None, None, 1)
    assert interval([None, math.nan]) is None


def test_equal_values_leave_no_doubt_and_the_same_values_give_the_same_interval():
    assert interval([2.0] * 5) == Interval(2.0, 2.0, 2.0, 5)
    values = torch.rand(10, generator=torch.Generator().manual_seed(1)).tolist()
    assert interval(values) == interval(values) != interval(values, seed=1)
