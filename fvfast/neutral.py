"""A call of fvfast's runs under PyTorch's own settings, whatever its caller has set; and leaves the caller's alone."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator

import torch


@contextlib.contextmanager
def neutral() -> Iterator[None]:
    """While entered: float32 on the CPU by default, gradients, no inference mode, no autocast; also a decorator.

    And attention as its own modules: PyTorch's shortcut for encoders runs none of their layers, so that nobody could
    see what these put out. The defaults of type and of attention are the process's, not the thread's.
    """
    _enter()
    try:
        with contextlib.ExitStack() as stack:
            stack.enter_context(torch.inference_mode(False))
            stack.enter_context(torch.enable_grad())
            for device in ("cpu", "cuda"):
                if torch.is_autocast_enabled(device):
                    stack.enter_context(torch.autocast(device, enabled=False))
            if torch.get_default_device().type != "cpu":
                stack.enter_context(torch.device("cpu"))
            yield
    finally:
        _leave()


# What is set for the whole process: by the first of several calls at a time, and set back by the last.
_lock = threading.Lock()
_before: list[tuple[torch.dtype, bool, int]] = []
_inside = [0]


def _enter() -> None:
    with _lock:
        if not _inside[0]:
            shortcut = torch.backends.mha.get_fastpath_enabled()
            _before[:] = [(torch.get_default_dtype(), shortcut, torch.get_num_threads())]
            torch.set_default_dtype(torch.float32)
            torch.backends.mha.set_fastpath_enabled(False)
        _inside[0] += 1


def _leave() -> None:
    with _lock:
        _inside[0] -= 1
        if not _inside[0]:
            kind, shortcut, threads = _before[0]
            torch.set_num_threads(threads)
            torch.set_default_dtype(kind)
            torch.backends.mha.set_fastpath_enabled(shortcut)
