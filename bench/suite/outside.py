"""One image's view and update, everything outside the network: the engine's loop, and torch.fft's as a user writes it.

At whole-pixel shifts both are the same work, which is where they are compared, each with float64.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from fvfast_kernels import Buffers, synthesize_adjoint_adam_, synthesize_into
from torch import Tensor

from fvfast.distances import distance
from fvfast.exactness import FACTOR, ROUNDING
from fvfast.images import COLOUR, envelope
from fvfast.views import Views

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
LR, BETA = 0.05, 0.9  # Adam's
SHIFT = (5, -9)
# Of the gradient's root mean square: below it there is nothing but rounding in float32.
LEAST = 1e-6


@dataclass(frozen=True)
class FirstStep:
    """What a first step made: the view [1, 3, H, W], the spectrum's gradient, and by how much it moved the spectrum."""

    view: Tensor
    gradient: Tensor
    moved: Tensor


Way = tuple[Callable[[], None], Callable[[], FirstStep]]  # a step, and what came of the first one


class Outside:
    """An image's spectrum, its views, and the gradient that the network sends back, all given.

    dtype: of the way through torch.fft; the numbers themselves are float32's.
    """

    def __init__(self, size: int, dtype: torch.dtype = torch.float32) -> None:
        generator = torch.Generator().manual_seed(0)
        self.size = size
        self.spectrum = (torch.randn(1, 3, 2, size, size // 2 + 1, generator=generator) * 0.01).to(DEVICE, dtype)
        self.envelope = envelope("lucid", size, size, 1.0).to(DEVICE, dtype)
        self.views = Views(jitter=12).draw(64, generator, size, size)[:, None, :5].contiguous().to(DEVICE)
        self.gradient = torch.randn(1, 3, size, size, generator=generator).to(DEVICE, dtype)
        self.colour = COLOUR.to(DEVICE, dtype)
        self.mean, self.std = (torch.tensor([v] * 3, dtype=torch.float32).to(DEVICE, dtype) for v in (0.45, 0.225))
        self.lr = torch.full((1,), LR, device=DEVICE)

    def loop(self) -> Way:
        """The engine's: any view, no autograd, Adam in the adjoint."""
        how = {"colour": self.colour, "mean": self.mean, "std": self.std, "device": DEVICE, "layout": "nhwc"}
        buffers = Buffers.allocate(1, self.size, self.size, (self.size, self.size), **how)
        spectrum, mean, square = self.spectrum.clone(), *(torch.zeros_like(self.spectrum) for _ in range(2))
        count = torch.zeros(1, dtype=torch.int32, device=DEVICE)

        def step() -> None:
            synthesize_into(buffers, spectrum, self.envelope, self.views, count)
            synthesize_adjoint_adam_(
                buffers, self.gradient, spectrum, mean, square, self.lr, self.envelope, self.views, count
            )
            count.add_(1).remainder_(64)

        return step, lambda: FirstStep(buffers.view, mean / (1 - BETA), spectrum - self.spectrum)

    def plain(self) -> Way:
        """irfft2, whole-pixel jitter, colour, sigmoid, autograd, torch.optim.Adam."""
        spectrum = self.spectrum.clone().requires_grad_()
        optimizer = torch.optim.Adam([spectrum], lr=LR)
        views: list[Tensor] = []

        def step() -> None:
            planes = spectrum * self.envelope
            canvas = torch.fft.irfft2(torch.complex(planes[:, :, 0], planes[:, :, 1]), s=(self.size,) * 2, norm="ortho")
            mixed = torch.einsum("oc,bchw->bohw", self.colour, canvas.roll(SHIFT, (2, 3)) * 0.25)
            view = (torch.sigmoid(mixed) - self.mean[:, None, None]) / self.std[:, None, None]
            optimizer.zero_grad()
            view.backward(self.gradient)
            optimizer.step()
            views[:] = [view.detach()]

        def look() -> FirstStep:
            assert spectrum.grad is not None
            return FirstStep(views[0], spectrum.grad, spectrum.detach() - self.spectrum)

        return step, look


def first_steps(size: int) -> tuple[FirstStep, FirstStep, FirstStep]:
    """The first step by the engine's loop, by torch.fft, and by torch.fft in float64, at one whole-pixel shift."""
    outside = Outside(size)
    outside.views[..., :2], outside.views[..., 2:4], outside.views[..., 4] = -torch.tensor(SHIFT), 1.0, 0.0
    found: list[FirstStep] = []
    for step, look in (outside.loop(), outside.plain(), Outside(size, torch.float64).plain()):
        step()
        found.append(look())
    mine, plain, exact = found
    return mine, plain, exact


def first_step_errors(mine: FirstStep, plain: FirstStep, exact: FirstStep) -> dict[str, tuple[float, float]]:
    """(relative L2 error of `mine`, the largest that passes) of the view, the gradient and the step, by name.

    The bound is `FACTOR` times what plain PyTorch in float32 is off, as `fvfast.exactness` has it. Adam's first step
    is as long for every number, so where a gradient is mere rounding, the step's direction is: of the 151,872 numbers
    at 224 px that is true of 13, all of them zero by symmetry but one, and one of these alone moved the error of the
    steps from 2e-7 to 2e-3. Such numbers are left out of the step, and the gradient is what judges them.
    """
    alive = exact.gradient.abs() > LEAST * exact.gradient.square().mean().sqrt()
    pairs = {
        "view": (mine.view, plain.view, exact.view),
        "gradient": (mine.gradient, plain.gradient, exact.gradient),
        "step": (mine.moved[alive], plain.moved[alive], exact.moved[alive]),
    }
    return {
        name: (distance(ours, right), max(FACTOR * distance(theirs, right), ROUNDING))
        for name, (ours, theirs, right) in pairs.items()
    }
