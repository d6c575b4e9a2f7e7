"""`--json` is one document on stdout, whatever a network prints there."""

import gc
import inspect
import json
import math
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import pytest
import typer

import fvfast.cli
from fvfast import cli_json, doctor

ROOT = Path(__file__).parents[2]

NOISY = """
import atexit, ctypes, os, subprocess, sys
from torch import nn

C = ctypes.CDLL(None)
out = sys.stdout
print("imported")
C.printf(b"imported by C\\n")
atexit.register(lambda: print("at exit"))
atexit.register(lambda: os.write(1, b"raw at exit\\n"))


class Noisy(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)
        print("built")
        sys.__stdout__.write("built, by another name")
        subprocess.run(["echo", "built by a child"])

    def forward(self, x):
        print("forward")
        out.write("forward, by a name kept")
        os.write(1, b"forward, raw\\n")
        C.printf(b"forward by C\\n")
        return self.conv(x)

    def __del__(self):
        print("gone")
"""


@pytest.fixture
def noisy():
    """A module whose network prints in every way there is; a folder of pictures for it to see."""
    Path("noisy.py").write_text(NOISY)
    Path("pictures").mkdir()
    for seed in range(3):
        array = np.random.default_rng(seed).integers(0, 256, (40, 40, 3), np.uint8)
        PIL.Image.fromarray(array).save(f"pictures/{seed}.png")


@pytest.fixture
def loud(noisy, monkeypatch):
    """The same network, one layer deeper, for this process to import; it prints nothing as the process ends."""
    text = NOISY.replace("atexit.register", "_ = ") + "\n\ndef net():\n    return nn.Sequential(Noisy())\n"
    Path("sketch_loud.py").write_text(text)
    monkeypatch.syspath_prepend(".")
    monkeypatch.delitem(sys.modules, "sketch_loud", raising=False)
    yield
    gc.collect()  # its networks say so when they go, which is not to be in another test's document


def test_nothing_that_a_network_prints_reaches_the_document(noisy):
    command = [sys.executable, "-m", "fvfast.cli", "render", "noisy:Noisy", "conv:1", "--size", "32", "--steps", "1"]
    paths = os.pathsep.join(map(str, (ROOT, ROOT / "kernels")))
    environment = {**os.environ, "PYTHONPATH": paths}
    done = subprocess.run([*command, "--json"], capture_output=True, text=True, env=environment, timeout=120)
    assert done.returncode == 0
    assert done.stdout.startswith("{")
    assert done.stdout.endswith("}\n")
    assert json.loads(done.stdout)["renders"][0]["target"] == "conv:1"
    for said in ("imported by C", "built", "built, by another name", "built by a child", "forward, by a name kept",
                 "forward, raw", "forward by C", "gone", "at exit", "raw at exit"):  # fmt: skip
        assert said in done.stderr


@pytest.mark.parametrize(
    "arguments",
    [
        ("layers", "sketch_loud:net"),
        ("dream", "pictures/0.png", "sketch_loud:net", "0", "--octaves", 1, "--steps", 1, "--tile", 128),
        ("atlas", "sketch_loud:net", "0", "--channels", "0-1", "--size", 32, "--steps", 1, "--store", "kept"),
        ("examples", "sketch_loud:net", "0", "pictures", "--size", 32, "--store", "kept"),
        ("activation-atlas", "sketch_loud:net", "0", "pictures", "--reduce", "pca", "--grid", 2, "--size", 32,
         "--steps", 1, "--positions", 4),
    ],
    ids=lambda arguments: arguments[0],
)  # fmt: skip
def test_every_command_that_runs_a_network(cli, loud, arguments):
    code, out, err = cli(*arguments, "--json")
    assert code == 0
    json.loads(out)
    assert "built" in err
    assert "forward" in err


def test_without_json_what_is_printed_stays_where_it_is(cli, loud):
    code, out, err = cli("layers", "sketch_loud:net")
    assert (code, err) == (0, "")
    assert "built" in out
    assert "conv" in out


def test_bad_input_leaves_stdout_empty(cli, loud):
    code, out, err = cli("render", "sketch_loud:net", "0.conv:99", "--size", 32, "--json")
    assert (code, out) == (2, "")
    assert "fvfast: 0.conv has channels 0-3, not 99" in err


def test_with_stderr_closed_the_document_is_alone_all_the_same():
    script = "import os; from fvfast.cli_json import json_alone, tell\n"
    script += "json_alone(lambda as_json: (print('said'), os.system('echo child'), tell({'a': 1})))(as_json=True)"
    done = subprocess.run(
        [sys.executable, "-c", script],
        stdout=subprocess.PIPE,
        cwd=ROOT,
        preexec_fn=lambda: os.close(2),
        timeout=60,
    )
    assert (done.returncode, json.loads(done.stdout)) == (0, {"a": 1})


def commands(group: typer.Typer) -> Iterator[Any]:
    for one in group.registered_commands:
        yield one.callback
    for one in group.registered_groups:
        assert isinstance(one.typer_instance, typer.Typer)
        yield from commands(one.typer_instance)


def test_every_command_with_json_leaves_stdout_to_it():
    with_json = [one for one in commands(fvfast.cli.app) if "as_json" in inspect.signature(one).parameters]
    assert len(with_json) >= 15
    for command in with_json:
        assert command.__code__ is cli_json.json_alone(lambda: None).__code__, command.__name__


def test_what_is_no_number_is_null(cli, monkeypatch):
    found = {"nan": math.nan, "inside": [{"infinite": -math.inf, "three": 3.0}], "pair": (1, math.inf)}
    monkeypatch.setattr(doctor, "report", lambda: found)
    code, out, _ = cli("doctor", "--json")
    assert code == 0

    def refuse(constant):
        raise AssertionError(f"{constant} is no JSON")

    expected = {"nan": None, "inside": [{"infinite": None, "three": 3.0}], "pair": [1, None]}
    assert json.loads(out, parse_constant=refuse) == expected


def test_stdout_is_what_it_was_after_a_command(cli):
    before = os.fstat(1)
    assert cli("doctor", "--json")[0] == 0
    with pytest.raises(RuntimeError, match="as it does"), cli_json.diverted():
        raise RuntimeError("as it does")
    after = os.fstat(1)
    assert (before.st_dev, before.st_ino) == (after.st_dev, after.st_ino)
