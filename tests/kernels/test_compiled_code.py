"""The kernels' compiled code, run in the PTX machine of `bench.ptx` against float64 sums.

The compiler and the interpreter of the other tests exclude one another in a process: this one calls the commands.
"""

import json
import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

pytestmark = pytest.mark.skipif(find_spec("triton") is None, reason="triton is not installed")

# Shared-memory cycles of a program at 224 px over those without bank conflicts, fast, sm_90: measured with triton 3.8
# (3.6 within 1 %), and a tenth more. A kernel that needs less moves its own figure down.
CONFLICTS = {"columns": 14.0, "rows": 1.1, "rows_adjoint": 2.6, "columns_adjoint": 1.2}
# Canvas, view and mode of each kind of tensor core instruction; both layouts that a network may take.
QUICK = (
    "sm_90 33x40->33x40 fast nhwc4",
    "sm_90 33x40->33x40 exact nhwc4",
    "sm_80 33x40->33x40 fast nhwc4",
    "sm_90 warp 33x40",
    "sm_90 adam 1",
)


def run(folder, command, *arguments):
    """What a command of `bench.ptx` leaves in its JSON file, and what it printed; it must end well."""
    environment = {k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"}
    environment["PYTHONPATH"] = os.pathsep.join(filter(None, sys.path))
    path = folder / f"{command}.json"
    whole = (sys.executable, "-m", "bench.ptx", command, *arguments, "--json", str(path))
    root = Path(__file__).parents[2]
    done = subprocess.run(whole, capture_output=True, text=True, env=environment, cwd=root)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-2000:]
    return json.loads(path.read_text())


def test_small_cases_compute_what_they_ought_to(tmp_path):
    cases = run(tmp_path, "check", "--only", *QUICK)["cases"]
    assert len(cases) == len(QUICK)
    assert all(case["errors"] for case in cases)


def test_at_224_px_numbers_are_right_and_banks_do_not_conflict(tmp_path):
    (case,) = run(tmp_path, "check", "--arch", "90", "--size", "224", "--precision", "fast", "--measure")["cases"]
    assert case["conflicts"].keys() == CONFLICTS.keys()
    for kernel, limit in CONFLICTS.items():
        assert case["conflicts"][kernel] <= limit, kernel


def test_faults_are_noticed(tmp_path):
    """Two of each in two kernels of the exact small case, which was compiled above. One alone may be harmless."""
    faults = ("barrier left out", "store's predicate dropped", "wait for copies left out")
    options = ("--precision", "exact", "--kernel", "columns", "rows", "--limit", "2", "--only", *faults)
    counts = run(tmp_path, "mutate", *options)["counts"]
    assert counts.keys() >= set(faults[:2])  # copies are pipelined only where a tile has two stages
    for fault, outcomes in counts.items():
        assert outcomes.get("found", 0) >= 1, fault


@pytest.mark.slow
@pytest.mark.parametrize("arch", [80, 89, 90, 120])
def test_all_small_cases(arch, tmp_path):
    assert len(run(tmp_path, "check", "--arch", str(arch))["cases"]) == 31


@pytest.mark.slow
@pytest.mark.parametrize("arch", [80, 90])
def test_whole_images_at_224_px(arch, tmp_path):
    assert len(run(tmp_path, "check", "--arch", str(arch), "--size", "224full")["cases"]) == 2


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["fast", "exact"])
def test_most_faults_are_noticed(precision, tmp_path):
    counts = run(tmp_path, "mutate", "--precision", precision, "--limit", "10")["counts"]
    for fault in ("barrier left out", "wgmma.fence left out", "ldmatrix address 8 further"):
        assert counts[fault].get("unnoticed", 0) <= 0.1 * sum(counts[fault].values()), fault
