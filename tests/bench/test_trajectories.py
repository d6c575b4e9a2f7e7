"""Two ways through the same steps: what is compared, and that a wrong way shows."""

import sys

import pytest
import torch

from bench import trajectories
from bench.gpu.words import trajectories_table
from bench.report import ROOT
from bench.steps import Case
from bench.trajectories import Moment, measure, perturb, walk

CASE = Case("sketch_nets:tiny", "deep", 2, 16)
MARKS = (1, 4)
CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def _nets(monkeypatch):
    monkeypatch.setattr(sys, "path", [str(ROOT / "tests" / "fvfast"), *sys.path])


@pytest.mark.skipif(torch.cuda.is_available(), reason="the interpreter is for machines without a GPU")
def test_kernels_leave_the_reference_path_by_roundings_only():
    found = measure(CASE, CPU, "none", MARKS)
    at = {(row["path"], row["step"]): row for row in found["rows"]}
    assert set(at) == {(path, mark) for path in ("kernels", "rounding") for mark in MARKS}
    for path in ("kernels", "rounding"):
        for quantity in ("spectrum", "canvas", "objective"):
            # Exact mode makes views and gradients to 2e-6; Adam's first steps hardly enlarge that
            assert at[path, 1][f"{quantity}, largest"] < 1e-4
    assert at["kernels", 1]["spectrum"] > 0  # another way indeed
    assert found["final objective"]["kernels"] == pytest.approx(found["final objective"]["reference"], rel=1e-3)
    text = trajectories_table(found)
    assert "| 4 |" in text
    assert "Medians over 2 images of 16 px" in text


def test_the_same_path_is_the_same_to_the_bit():
    one, other = (walk(CASE, CPU, "reference", "none", MARKS) for _ in range(2))
    for mark in MARKS:
        assert one[mark].spectrum.equal(other[mark].spectrum)
        assert one[mark].objective.equal(other[mark].objective)


def test_a_rounding_is_one_ulp_up_or_down():
    start = torch.randn(1000, generator=torch.Generator().manual_seed(1))
    moved = start.clone()
    perturb(moved)
    steps = moved.view(torch.int32) - start.view(torch.int32)
    assert steps.abs().eq(1).all()
    assert 300 < (moved > start).sum() < 700


def test_distances_by_hand():
    truth = Moment(torch.tensor([[3.0, 4.0], [1.0, 0.0]]), torch.ones(2, 3, 2, 2), torch.tensor([2.0, -4.0]))
    one = Moment(torch.tensor([[3.0, 4.5], [1.0, 0.0]]), torch.ones(2, 3, 2, 2) * 1.5, torch.tensor([2.2, -4.0]))
    found = trajectories._apart(one, truth)
    assert found["spectrum, largest"] == pytest.approx(0.1)
    assert found["spectrum"] == pytest.approx(0.05)
    assert found["canvas"] == pytest.approx(0.5)
    assert found["objective, largest"] == pytest.approx(0.1)
