"""The report's own logic, on a CPU: what it prints, and above all what it refuses to print."""

import copy
import subprocess
import sys

import pytest
import torch

from bench import gpu_report
from bench.report import ROOT
from bench.steps import EXACT_BOUND, HALF_BOUND, Case, measure
from bench.timing import quantiles


@pytest.fixture(scope="module")
def step():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield measure(Case("resnet18", "layer1", 2, 64), torch.device("cpu"), torch.bfloat16, 0.05)
    torch.set_num_threads(threads)


@pytest.fixture
def report(step):
    return {
        "machine": {"stamp": "a stamp", "driver": "1", "triton": "2", "cuda": "3"},
        "tests": {"passed": True, "summary": "9 passed"},
        "sanitizer": {"ran": False, "reason": "compute-sanitizer is not installed"},
        "kernels": {"passed": True, "table": "the kernels' table"},
        "steps": [copy.deepcopy(step), {"case": "huge, batch 256", "out of memory": True}],
        "atlas": {
            "channels": 512,
            "steps": 256,
            "seconds": 10.0,
            "all channels": 5488,
            "seconds for all, extrapolated": 107.2,
        },
        "quality": {
            "model": "net",
            "channels": 32,
            "median change of the final objective": -0.004,
            "median of its size": 0.012,
        },
        "trajectories": {
            "case": {"model": "net", "layer": "deep", "batch": 8, "size": 224},
            "rows": [
                {"path": path, "step": step, "spectrum": 3e-7 * step, "canvas": 4e-8, "objective": 1e-6}
                for path in ("kernels", "rounding")
                for step in (1, 256)
            ],
            "final objective": {"reference": 12.25, "kernels": 12.5, "rounding": 12.0},
        },
    }


def test_a_whole_step_is_measured_behind_its_gate(step):
    gate = step["gate"]
    assert gate["passed"]
    # On a CPU both paths are the reference: equal to the bit. The half-precision step is not.
    assert gate["float32, 8 steps"] == 0
    assert 0 < gate["bfloat16, first step"] < HALF_BOUND
    assert gate["bound"] == EXACT_BOUND
    assert set(step["ms"]) == {"reference", "fvfast", "network alone", "lucent-style"}
    assert step["ratios"]["over lucent-style"] == step["ms"]["lucent-style"]["p50"] / step["ms"]["fvfast"]["p50"]


def test_ratios_are_printed_where_the_gate_passed(report):
    text = gpu_report.markdown(report)
    assert f"{report['steps'][0]['ratios']['over lucent-style']:.2f}x" in text
    assert "huge, batch 256 | does not fit" in text
    assert "512 channels of GoogLeNet, 256 steps at 224 px, in 10.0 s; all 5488 would take 107 s." in text
    assert "-0.40%" in text
    assert "| 256 | 7.7e-05 | 4.0e-08 | 1.0e-06 |" in text
    assert "12.2500 (reference), 12.5000 (kernels), 12.0000 (rounding)" in text
    assert gpu_report.healthy(report)


def test_no_ratio_is_printed_behind_a_failed_gate(report):
    ratio = f"{report['steps'][0]['ratios']['over lucent-style']:.2f}x"
    report["steps"][0]["gate"]["passed"] = False
    report["steps"][0]["ratios"] = None
    text = gpu_report.markdown(report)
    assert ratio not in text
    assert "gate failed" in text
    assert not gpu_report.healthy(report)


@pytest.mark.parametrize("part", ["tests", "kernels"])
def test_a_failed_part_makes_the_report_fail(report, part):
    report[part]["passed"] = False
    assert not gpu_report.healthy(report)


def test_quantiles():
    assert quantiles([float(i) for i in range(11)]) == {"p20": 2.0, "p50": 5.0, "p80": 8.0}
    assert quantiles([3.0]) == {"p20": 3.0, "p50": 3.0, "p80": 3.0}


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without a GPU")
@pytest.mark.parametrize("command", ["bench.gpu_report", "bench.kernels"])
def test_without_a_gpu_it_says_so_in_one_sentence(command):
    done = subprocess.run([sys.executable, "-m", command], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr.count("\n") == 1
    assert "needs an NVIDIA GPU" in done.stderr
