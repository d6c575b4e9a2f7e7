"""The gate before the time of everything outside the network: what passes, and what does not."""

from dataclasses import replace

import pytest
import torch

from bench.suite.outside import LR, first_step_errors, first_steps


@pytest.fixture(scope="module", params=[32, 45])
def steps(request):
    return first_steps(request.param)


def failed(mine, plain, exact):
    return {name for name, (error, bound) in first_step_errors(mine, plain, exact).items() if not error <= bound}


def test_the_loop_is_as_near_to_float64_as_torch_is(steps):
    mine, plain, exact = steps
    assert failed(mine, plain, exact) == set()
    for error, bound in first_step_errors(mine, plain, exact).values():
        assert 0 < error < bound < 1e-5
    # Another way indeed, and a whole step of Adam's.
    assert not mine.gradient.equal(plain.gradient)
    assert exact.moved.abs().max() == pytest.approx(LR, rel=1e-6)


@pytest.mark.parametrize(
    ("field", "spoil"),
    [
        ("gradient", lambda g: g * 1.01),
        ("gradient", lambda g: g + g.square().mean().sqrt() * 1e-3),
        ("view", lambda v: v.roll(1, 3)),
        ("view", lambda v: v.bfloat16().float()),
        ("moved", lambda m: m * 1.001),
    ],
    ids=["gradient too long", "gradient off", "view shifted", "view of 8 bits", "step too long"],
)
def test_what_is_wrong_fails(steps, field, spoil):
    mine, plain, exact = steps
    wrong = replace(mine, **{field: spoil(getattr(mine, field))})
    assert failed(wrong, plain, exact) == {"step" if field == "moved" else field}


def test_only_a_number_that_has_a_gradient_may_not_go_the_other_way(steps):
    mine, plain, exact = steps
    for number, expected in ((exact.gradient.abs().argmin(), set()), (exact.gradient.abs().argmax(), {"step"})):
        moved = mine.moved.clone()
        moved.view(-1)[number] = LR if moved.view(-1)[number] <= 0 else -LR
        assert failed(replace(mine, moved=moved), plain, exact) == expected


def test_a_symmetric_part_has_no_gradient():
    """Why there are such numbers: the mean of a real image has no imaginary part to learn."""
    _, _, exact = first_steps(32)
    assert exact.gradient[:, :, 1, 0, 0].abs().max() < 1e-12 * exact.gradient.abs().max()
    assert torch.count_nonzero(exact.gradient[:, :, 0]) > 0
