"""The kernels' bench: what it says without a GPU, and that it never praises a wrong result."""

import sys

import pytest
import torch

from bench import kernels
from bench.gpu.problem import step_bytes
from bench.gpu.words import kernel_ratio


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu_it_says_so(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["bench.kernels"])
    assert kernels.main() == 2
    assert "needs an NVIDIA GPU" in capsys.readouterr().err


def test_no_ratio_where_a_result_is_wrong():
    good, bad = {"p50_ms": 2.0, "right": True}, {"p50_ms": 8.0, "right": False}
    assert kernel_ratio({"p50_ms": 1.0, "right": True}, good) == "2.00x"
    assert kernel_ratio(bad, good) == kernel_ratio(good, bad) == "wrong result"


def test_bytes_of_a_step():
    # By hand for 4 px: spectrum 3*2*4*3 floats, Y 3*2*4*8 floats, view 4*16 halves, sigmoid 3*16 halves or floats.
    assert sum(step_bytes(4, "fast").values()) == 7 * 288 + 4 * 768 + 2 * 128 + 2 * 96 + 2 * 2 * 512
    assert sum(step_bytes(4, "exact").values()) == 7 * 288 + 4 * 768 + 2 * 128 + 2 * 192 + 4 * 2 * 512
