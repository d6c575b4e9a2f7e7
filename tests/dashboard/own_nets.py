"""Networks that run as they are written, at every step: with a gradient of their own, no recording replaces them."""

import os
import signal
import time
from pathlib import Path

import torch
from torch import nn


class _OwnGradient(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        return x.clone()

    @staticmethod
    def backward(ctx, *gradients):
        return gradients[0] * 1.5


class Slow(nn.Module):
    """Takes its time, so that there is something to watch and to interrupt."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3, padding=1)

    def forward(self, x):
        time.sleep(0.03)
        return self.conv(_OwnGradient.apply(x))


class Held(nn.Module):
    """Stops at its 30th look at an image with a gradient, until there is the file that OWN_NETS_GO names.

    Or until its parent is gone, so that a run of the tests that is killed leaves nothing behind.
    """

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3, padding=1)
        self.looks, self.parent = 0, os.getppid()

    def forward(self, x):
        self.looks += x.requires_grad
        while self.looks >= 30 and not Path(os.environ["OWN_NETS_GO"]).exists() and os.getppid() == self.parent:
            time.sleep(0.01)
        return self.conv(_OwnGradient.apply(x))


class Mortal(nn.Module):
    """Kills the process that it runs in, at its 40th look at an image with a gradient."""

    looks = 0

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3, padding=1)

    def forward(self, x):
        Mortal.looks += x.requires_grad
        if Mortal.looks == 40:
            os.kill(os.getpid(), signal.SIGKILL)
        return self.conv(_OwnGradient.apply(x))
