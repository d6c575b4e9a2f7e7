"""A call of fvfast's runs under PyTorch's own settings, whatever its caller has set; and leaves the caller's alone."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch


@contextlib.contextmanager
def neutral() -> Iterator[None]:
    """While entered: float32 on the CPU by default, gradients, no inference mode, no autocast; also a decorator.

    And attention as its own modules: PyTorch's shortcut for encoders runs none of their layers, so that nobody could
    see what these put out. The defaults of type and of attention are the process's, not the thread's.
    """
    kind, shortcut = torch.get_default_dtype(), torch.backends.mha.get_fastpath_enabled()
    torch.set_default_dtype(torch.float32)
    torch.backends.mha.set_fastpath_enabled(False)
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
        torch.set_default_dtype(kind)
        torch.backends.mha.set_fastpath_enabled(shortcut)
