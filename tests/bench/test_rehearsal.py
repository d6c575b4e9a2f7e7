"""The host's side of a render on a GPU that does nothing: what is captured, and that a bad step is noticed.

The device comes before every library of a process, so each rehearsal is a process of its own.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from bench.rehearsal import build
from bench.rehearsal.build import Unfit
from bench.rehearsal.cases import CASES, FAULTY
from bench.rehearsal.paths import chosen

ROOT = Path(__file__).parents[2]

# The fused step. The others' kernels take a minute to compile.
FUSED = "channels"


@pytest.fixture(scope="module")
def _fit():
    try:
        build.build(sys.executable)
    except Unfit as reason:
        pytest.skip(str(reason))


def run(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    surroundings = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path)), **environment}
    command = [sys.executable, "-m", "bench.rehearsal", *arguments]
    return subprocess.run(command, cwd=ROOT, env=surroundings, capture_output=True, text=True, check=False)


def paths(*names: str, **environment: str) -> dict[str, dict]:
    done = run("paths", "--json", *names, **environment)
    rows = [json.loads(line) for line in done.stdout.splitlines()]
    assert done.returncode == (0 if all(row["state"] == "captured" for row in rows) else 1), done.stderr
    return {row["path"]: row for row in rows}


@pytest.fixture(scope="module")
def rows(_fit) -> dict[str, dict]:
    """Every path, and the networks that no capture holds, around the reference: it needs no compiling."""
    return paths(*CASES, *FAULTY, FVFAST_KERNELS="reference")


def test_every_path_is_captured(rows):
    assert {name: rows[name]["why"] for name in CASES if rows[name]["state"] != "captured"} == {}
    assert min(nodes for name in CASES for nodes in rows[name]["nodes"]) > 30  # a forward and a backward pass at least
    assert len(rows["sizes"]["nodes"]) == 3
    assert (
        len(rows["three, one at a time"]["nodes"]) == len(rows["atlas"]["nodes"]) == 1
    )  # batches that are alike share one


def test_a_step_that_no_capture_holds_is_noticed(rows):
    assert {rows[name]["state"] for name in FAULTY} == {"step by step"}
    # The first thing that went wrong, in CUDA's words and in torch's.
    read, copied = rows["a value read on the host"]["why"], rows["a copy from the host"]["why"]
    assert "(CUDA error: operation not permitted when stream is capturing); running it step by step" in read
    assert "cudaStreamSynchronize in a capture" in read
    assert "(Cannot copy between CPU and CUDA tensors during CUDA graph capture" in copied


@pytest.mark.usefixtures("_fit")
def test_the_fused_step_is_captured(rows):
    found = paths(FUSED)[FUSED]
    assert found["state"] == "captured", found["why"]
    assert found["nodes"][0] < rows[FUSED]["nodes"][0] / 2


@pytest.mark.slow
@pytest.mark.usefixtures("_fit")
def test_every_path_by_the_kernels_is_captured():
    assert {name: row["why"] for name, row in paths().items() if row["state"] != "captured"} == {}


RULES = """
import torch
from bench.rehearsal import device

def captured(work):
    graph, stream = torch.cuda.CUDAGraph(), torch.cuda.Stream()
    x = torch.ones(4, device="cuda")
    try:
        with torch.cuda.graph(graph, stream=stream):
            work(x, stream, other)
    except RuntimeError as error:
        return str(error).splitlines()[0]
    return "captured"

def joined(x, stream, other):
    other.wait_stream(stream)
    with torch.cuda.stream(other):
        x += 1
    stream.wait_stream(other)

def unjoined(x, stream, other):
    other.wait_stream(stream)
    with torch.cuda.stream(other):
        x += 1

def isolated(x, stream, other):
    stream.wait_stream(other)

def beside(x, stream, other):
    x += 1
    with torch.cuda.stream(other):
        x += 1

def allocating(x, stream, other):
    torch.empty(1 << 30, device="cuda")

other = torch.cuda.Stream()
for work in (joined, allocating, beside, unjoined, isolated):
    before = device.counts()
    said = captured(work)
    other = torch.cuda.Stream()
    done = device.counts().since(before)
    print(f"{work.__name__}: {said}, {done.nodes} nodes, {done.broken} broken")
x = torch.full((3,), 7.0).cuda()
print(float(x.cpu().sum()), torch.cuda.get_device_name())
"""


@pytest.mark.usefixtures("_fit")
def test_the_device_obeys_the_rules_of_captures(tmp_path):
    log = tmp_path / "log.txt"
    done = run("--", sys.executable, "-c", RULES, REHEARSAL_LOG=str(log))
    assert done.returncode == 0, done.stderr
    lines = dict(line.split(": ", 1) for line in done.stdout.splitlines() if ": " in line)
    assert lines["joined"] == "captured, 1 nodes, 0 broken"
    assert lines["allocating"] == "captured, 0 nodes, 0 broken"  # torch may, in a pool of the graph's
    assert lines["beside"] == "captured, 1 nodes, 0 broken"
    assert lines["unjoined"].startswith("CUDA error: capturing stream has unjoined work")
    assert lines["isolated"].startswith("CUDA error: ")
    assert lines["isolated"].endswith("1 broken")
    said = log.read_text()
    assert "memcpy beside a capture" not in said
    assert said.count("beside a capture") == 1
    # What the device was given is there; what it would have computed, and all that is read back, is zeros.
    assert done.stdout.splitlines()[-1] == "0.0 NVIDIA H100 80GB HBM3"


@pytest.mark.usefixtures("_fit")
def test_a_command_gives_its_own_exit_status():
    done = run("--", "sh", "-c", "echo $LD_PRELOAD; exit 7")
    assert done.returncode == 7
    assert done.stdout.strip().endswith("libdevice.so")


def test_an_unknown_path_is_refused_in_one_sentence():
    with pytest.raises(ValueError, match=r"^there is no path 'chanel' \(did you mean channel\?\); --list lists them$"):
        chosen(["chanel"], ["channel", "maco"], ["channel"])
    assert chosen(["maco"], ["channel", "maco"], ["channel"]) == ["maco"]
    assert chosen([], ["channel", "maco"], ["channel"]) == ["channel"]


def refused(*arguments: str, **environment: str) -> str:
    done = run(*arguments, **environment)
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    return done.stderr


def test_what_is_missing_is_said_in_one_sentence(tmp_path):
    assert "needs gcc" in refused("--", "true", PATH=str(tmp_path))
    assert "cannot be run as a Python interpreter" in refused("--python", "no-such-python", "--", "true")
    bare = tmp_path / "python"
    bare.write_text(f'#!/bin/sh\nexec {sys.executable} -S -I "$@"\n')
    bare.chmod(0o755)
    assert "a rehearsal needs torch" in refused("--python", str(bare), "--", "true")


def test_headers_that_came_with_torch_are_preferred(tmp_path, monkeypatch):
    def header(folder: Path, name: str, text: str = "") -> str:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
        return str(folder)

    packages, toolkit = tmp_path / "packages", tmp_path / "toolkit"
    monkeypatch.setenv("CUDA_HOME", str(toolkit))
    monkeypatch.setattr(build, "TOOLKITS", ())
    with pytest.raises(Unfit, match="needs the headers of CUDA 13"):
        build.headers([str(packages)])
    header(packages / "nvidia/old/include", "cuda_runtime_api.h", "#define CUDART_VERSION  12080\n")
    crt = header(packages / "triton/backends/nvidia/include", "crt/host_defines.h")
    with pytest.raises(Unfit, match="needs the headers of CUDA 13"):
        build.headers([str(packages)])
    runtime = header(toolkit / "include", "cuda_runtime_api.h", "#define CUDART_VERSION  13000\n")
    with pytest.raises(Unfit, match=r"cudnn_graph\.h"):
        build.headers([str(packages)])
    dnn = header(packages / "nvidia/cudnn/include", "cudnn_graph.h")
    assert build.headers([str(packages)]) == [runtime, dnn, crt]
    runtime = header(packages / "nvidia/cu13/include", "cuda_runtime_api.h", "#define CUDART_VERSION  13000\n")
    assert build.headers([str(packages)]) == [runtime, dnn, crt]
