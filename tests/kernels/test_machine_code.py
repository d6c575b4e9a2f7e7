"""Every kernel compiled to machine code for GPUs that need not be there, and what that code takes of them.

The compiler and the interpreter of the other tests exclude one another in a process: this one calls
`python -m bench.resources`, which compiles the launchers' own launches.
"""

import json
import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

from bench.resources import SHARED_LIMIT

KERNELS = {"columns", "rows", "rows_adjoint", "columns_adjoint"}
STEP = KERNELS | {"bases"}  # which multiplies nothing
OTHERS = {"warp", "warp_adjoint", "adam"}  # compiled with the exact ones

pytestmark = pytest.mark.skipif(find_spec("triton") is None, reason="triton is not installed")


def compiled(*arguments):
    environment = {k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"}
    environment["PYTHONPATH"] = os.pathsep.join(filter(None, sys.path))
    command = (sys.executable, "-m", "bench.resources", "--json", *arguments)
    root = Path(__file__).parents[2]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, cwd=root)
    assert done.returncode == 0, done.stderr[-2000:]
    return [json.loads(line) for line in done.stdout.splitlines()]


def check(row):
    assert row["stack"] == 0, row
    assert row["spills"] == 0, row
    assert row["registers"] * 32 * row["warps"] <= 65536, row  # one program has to fit into an SM's registers
    assert row["shared_bytes"] <= SHARED_LIMIT[row["arch"]] * 1024, row
    if row["kernel"] not in KERNELS:
        return
    assert row["tensor_core"] > 0, row
    if row["size"] < 96:
        return  # tiles that leave a thread less than 16 bytes
    # The intermediate Y has rows of 16-byte multiples; it is written in such, and read so but for exact mode's tiles,
    # which leave a thread two entries.
    if row["kernel"] in ("columns", "rows_adjoint"):
        assert row["stores_16"] == row["stores"], row
    if row["kernel"] == "rows" and row["precision"] == "fast":
        assert row["loads_16"] >= 6, row
    # Whole pixels of four half-precision channels: two at once upwards from the middle, one downwards.
    if row["layout"] == "nhwc4" and row["size"] % 8 == 0:
        if row["kernel"] == "rows":
            assert row["stores_16"] > 0, row
            assert row["stores_8"] > 0, row
        if row["kernel"] == "rows_adjoint":
            assert row["loads_16"] > 0, row


# One architecture of each kind of tensor core instruction, at the size and in the modes of the hot loop.
@pytest.mark.parametrize("arch", [80, 90, 100])
def test_resources_at_224_px(arch):
    precision = "exact" if arch == 80 else "fast"
    rows = compiled("--arch", str(arch), "--precision", precision)
    assert {row["kernel"] for row in rows} == (STEP | OTHERS if precision == "exact" else STEP)
    for row in rows:
        check(row)


@pytest.mark.slow
@pytest.mark.parametrize("arch", [80, 89, 90, 100, 120])
def test_resources_at_all_sizes(arch):
    sizes = ("16", "33", "64", "96", "128", "224", "299", "512", "1024")
    rows = compiled("--arch", str(arch), "--size", *sizes, "--layout", "nhwc4", "nchw")
    assert len(rows) == 9 * 2 * (2 * len(STEP) + len(OTHERS))
    for row in rows:
        check(row)
