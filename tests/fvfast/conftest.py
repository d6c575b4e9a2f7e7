"""Shared by the engine's tests: small networks, and the command line run in this process."""

import importlib
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

import fvfast.cli
from fvfast.models import Model
from fvfast.store import Store
from tests.fvfast.sketch_store import made

HERE = Path(__file__).parent


@pytest.fixture(autouse=True)
def _surroundings(monkeypatch, tmp_path):
    """A folder of one's own to write to; the sketched networks can be imported; no test's paths or seeds linger."""
    monkeypatch.setattr(sys, "path", [str(HERE), *sys.path])
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(1234)


@pytest.fixture(autouse=True, scope="session")
def _one_thread():
    """Small tensors gain nothing from a second thread, and wait for it where other work fills the machine."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def halves(monkeypatch):
    """Half precision as on a processor that has it, as far as oneDNN can emulate that on this one."""
    monkeypatch.setattr("fvfast.precision.emulated", lambda *_: "")
    if torch.ops.mkldnn._is_mkldnn_bf16_supported():
        monkeypatch.setattr("fvfast.lowering.emulated", lambda *_: "")


@pytest.fixture
def nets() -> Any:
    """The module of sketched networks."""
    return importlib.import_module("sketch_nets")


@pytest.fixture
def tiny(nets) -> Model:
    """A network of two convolutions with ten named classes, made for 32 px."""
    torch.manual_seed(0)
    names = ("ant", "bee", "crane", "crane", "red fox", "Robin", "robin", "bell pepper", "owl", "eel")
    return Model("tiny", "none", nets.Tiny(), size=32, classes=names)


@pytest.fixture
def cli(capsys):
    """Runs `fvfast ARGUMENTS` in this process; gives (exit code, stdout, stderr)."""

    def run(*arguments: object) -> tuple[int, str, str]:
        capsys.readouterr()
        with pytest.raises(SystemExit) as exit_:
            fvfast.cli.main([str(a) for a in arguments])
        out, err = capsys.readouterr()
        assert isinstance(exit_.value.code, int)
        return exit_.value.code, out, err

    return run


@pytest.fixture
def folder(tmp_path) -> Path:
    """A store of five renders: three channels of a deep layer, two of a shallow one, one of these by lucent."""
    there = tmp_path / "kept"
    with Store(there, write=True) as store:
        store.add([made(2), made(0), made(10)])
        store.add([made(1, "shallow", 1), made(0, "shallow", 1, recipe="lucent")])
    return there
