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
CONFLICTS = {"bases": 1.1, "columns": 1.2, "rows": 1.1, "rows_adjoint": 1.1, "columns_adjoint": 1.2}
# One process for all that any run tests: starting triton takes as long as compiling a kernel.
CASES = (
    "sm_90 33x40->33x40 exact nhwc4",
    "sm_80 33x40->33x40 fast nhwc4",
    "sm_90 warp 33x40",
    "sm_90 adam 1",
)
FAULTS = ("barrier left out", "store's predicate dropped", "wait for copies left out")
QUICK = {
    "small": ("check", "--only", *CASES),
    "224": ("check", "--arch", "90", "--size", "224", "--precision", "fast", "--measure"),
    # In the exact small case, which is compiled by then.
    "faults": ("mutate", "--precision", "exact", "--kernel", "columns", "rows", "--limit", "2", "--only", *FAULTS),
}
PROGRAM = """
import importlib, json, sys
for command, *arguments in json.load(sys.stdin):
    importlib.import_module("bench.ptx." + command).main(arguments)
"""


def run(folder, commands):
    """What some commands of `bench.ptx` leave in their JSON files, by name."""
    environment = {k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"}
    environment["PYTHONPATH"] = os.pathsep.join(filter(None, sys.path))
    files = {name: folder / f"{name}.json" for name in commands}
    lines = [(*commands[name], "--json", str(path)) for name, path in files.items()]
    done = subprocess.run(
        (sys.executable, "-c", PROGRAM),
        input=json.dumps(lines),
        capture_output=True,
        text=True,
        env=environment,
        cwd=Path(__file__).parents[2],
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-2000:]
    return {name: json.loads(path.read_text()) for name, path in files.items()}


@pytest.fixture(scope="module")
def quick(tmp_path_factory):
    return run(tmp_path_factory.mktemp("ptx"), QUICK)


def healthy(document, count):
    """Whether so many cases were run, each with errors within their limits and no violation."""
    problems = [f"{case['case']}: {problem}" for case in document["cases"] for problem in case["problems"]]
    assert not problems
    assert all(case["errors"] for case in document["cases"])
    return len(document["cases"]) == count


def test_small_cases_compute_what_they_ought_to(quick):
    assert healthy(quick["small"], len(CASES))


def test_at_224_px_numbers_are_right_and_banks_do_not_conflict(quick):
    assert healthy(quick["224"], 1)
    conflicts = quick["224"]["cases"][0]["conflicts"]
    assert conflicts.keys() == CONFLICTS.keys()
    for kernel, limit in CONFLICTS.items():
        assert conflicts[kernel] <= limit, kernel


def test_faults_are_noticed(quick):
    """Two of each in two kernels; one alone may be harmless."""
    counts = quick["faults"]["counts"]
    assert counts.keys() >= set(FAULTS[:2])  # copies are pipelined only where a tile has two stages
    for fault, outcomes in counts.items():
        assert outcomes.get("found", 0) >= 1, fault


@pytest.mark.slow
@pytest.mark.parametrize("arch", ["80", "89", "90", "120"])
def test_all_small_cases(arch, tmp_path):
    assert healthy(run(tmp_path, {"small": ("check", "--arch", arch)})["small"], 31)


@pytest.mark.slow
@pytest.mark.parametrize("arch", ["80", "90"])
def test_whole_images_at_224_px(arch, tmp_path):
    assert healthy(run(tmp_path, {"224": ("check", "--arch", arch, "--size", "224full")})["224"], 2)


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["fast", "exact"])
def test_most_faults_are_noticed(precision, tmp_path):
    command = ("mutate", "--precision", precision, "--limit", "10")
    counts = run(tmp_path, {"faults": command})["faults"]["counts"]
    for fault in ("barrier left out", "ldmatrix address 8 further"):
        assert counts[fault].get("unnoticed", 0) <= 0.1 * sum(counts[fault].values()), fault
