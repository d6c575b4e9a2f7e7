import subprocess
import sys

import pytest

import fvfast


@pytest.mark.parametrize("name", fvfast.__all__)
def test_every_public_name_is_there(name):
    value = getattr(fvfast, name)
    assert value is getattr(fvfast, name)
    assert getattr(value, "__module__", "fvfast").startswith("fvfast")


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="module 'fvfast' has no attribute 'rendr'"):
        _ = fvfast.rendr


def test_the_command_lines_help_does_not_wait_for_torch():
    code = "import sys, fvfast, fvfast.cli; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"
