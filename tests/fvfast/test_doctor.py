import importlib.metadata
import platform

import fvfast_kernels
import torch

import fvfast
from fvfast import doctor
from fvfast.optimize import crew_size


def test_the_report_names_versions_device_and_path():
    found = doctor.report()
    assert found["fvfast"] == fvfast.__version__
    assert found["python"] == platform.python_version()
    assert found["torch"] == torch.__version__
    assert found["torchvision"] == importlib.metadata.version("torchvision")
    device = "cuda" if torch.cuda.is_available() else "cpu"
    assert {"backend": found["path"], "reason": found["why"]} == fvfast_kernels.describe(device)
    assert found["at once"].startswith(f"{crew_size(None)[0]} images, {crew_size(None)[1]} thread")


def test_the_report_says_what_is_fused(monkeypatch):
    cpu = torch.device("cpu")
    monkeypatch.setattr(doctor, "unusable", lambda dtype: "")
    assert doctor._networks(cpu) == "fused in float32 and bfloat16"
    monkeypatch.setattr(doctor, "unusable", lambda dtype: "too old" if dtype == torch.bfloat16 else "")
    assert doctor._networks(cpu) == "fused in float32; modules otherwise: too old"
    monkeypatch.setattr(doctor, "unusable", lambda dtype: "no oneDNN")
    assert doctor._networks(cpu) == "their own modules: no oneDNN"


def test_a_package_that_is_missing_is_said_to_be():
    assert doctor._version("no-such-package-at-all") == "not installed"
