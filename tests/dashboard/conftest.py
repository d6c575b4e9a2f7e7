"""Shared by the dashboard's tests: a folder of one's own, small networks, a desk that is closed again."""

import os
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

HERE = Path(__file__).parent
NEEDS = "needs streamlit: pip install 'fvfast[dashboard]'"


class _Absent(pytest.Module):
    """A module of tests that is skipped as a whole, before anything in it is imported."""

    def collect(self):
        pytest.skip(NEEDS, allow_module_level=True)


def pytest_pycollect_makemodule(module_path, parent):
    return _Absent.from_parent(parent, path=module_path) if find_spec("streamlit") is None else None


@pytest.fixture(autouse=True)
def _surroundings(monkeypatch, tmp_path):
    """Small networks can be imported, here and in child processes; no settings of the machine's get in."""
    from fvfast_dashboard import jobs

    for name in ("FVFAST_DASHBOARD_STORE", "FVFAST_DASHBOARD_RESULTS", "FVFAST_DASHBOARD_CODE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(sys, "path", [str(HERE), str(HERE.parent / "fvfast"), *sys.path])
    monkeypatch.setenv("OMP_NUM_THREADS", os.environ.get("OMP_NUM_THREADS", "1"))
    monkeypatch.chdir(tmp_path)
    yield
    jobs.close()
