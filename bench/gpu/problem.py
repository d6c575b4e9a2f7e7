"""The work of a step outside the network: spectrum -> half-precision view, the view's gradient -> Adam's update.

Views are whole-pixel shifts, one for the batch, so that irfft2 and roll are the same work; the kernels take any views
at the same cost. Inputs rotate through more memory than the L2 cache holds.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from fvfast_kernels import synthesize
from fvfast_kernels.blocks import padded_sizes
from fvfast_kernels.geometry import Epilogue, Geometry
from torch import Tensor

COLOUR = ((0.56, 0.19, 0.04), (0.58, 0.0, -0.11), (0.58, -0.19, 0.06))
MEAN, STD, LR, SHIFT, GAIN = 0.45, 0.225, 0.05, (5, -9), 0.25
VIEW = torch.bfloat16  # what a render on a GPU computes in
# Relative L2 error of the gradient against float64: what each precision promises; float32 FFTs reach 5e-7.
TOLERANCE = {"exact": 2e-6, "fast": 6e-4}
# The view is rounded to 8 bits besides: half a unit is at most 2^-9 of a value.
VIEW_TOLERANCE = 2**-8
ROTATED_BYTES = 256e6  # several times any L2 cache


def step_bytes(size: int, precision: str) -> dict[str, float]:
    """Bytes an image that each fused kernel has to move, at size x size, with a view of four half-precision planes."""
    spectrum = 3 * 2 * size * (size // 2 + 1) * 4
    y = 3 * 2 * size * (-(-(size // 2 + 1) // 8) * 8) * 4
    view = 4 * size * size * 2
    sigmoid = 3 * size * size * (4 if precision == "exact" else 2)
    rows, frequencies, columns, pixels = padded_sizes(Geometry(size, size, size, size)).values()
    planes = 4 if precision == "exact" else 2
    return {
        "bases": planes * (rows * frequencies + columns * pixels) * 2,  # written; the others find them in L2
        "columns": spectrum + y,
        "rows": y + view + sigmoid,
        "rows_adjoint": view + sigmoid + y,
        "columns_adjoint": y + 6 * spectrum,  # reads and writes the spectrum and two moments
    }


@dataclass
class State:
    """One set of everything that a step reads and writes."""

    spectrum: Tensor
    grad: Tensor  # of the view, [B, 4, R, R] half, channels-last
    exp_avg: Tensor
    exp_avg_sq: Tensor


@dataclass(frozen=True)
class Truth:
    """The first image of the first set in float64: its view [1, 3, R, R] and its spectrum's gradient."""

    view: Tensor
    gradient: Tensor


class Problem:
    """The inputs of one size and batch, and as many sets of them as defeat the cache."""

    def __init__(self, size: int, batch: int) -> None:
        self.size, self.batch = size, batch
        generator = torch.Generator("cuda").manual_seed(1)
        shape = (batch, 3, 2, size, size // 2 + 1)
        fy, fx = torch.fft.fftfreq(size)[:, None], torch.fft.rfftfreq(size)[None]
        self.envelope = (1 / torch.hypot(fy, fx).clamp(min=1 / size)).cuda()
        self.colour = torch.tensor(COLOUR).cuda()
        self.mean, self.std = torch.full((3,), MEAN).cuda(), torch.full((3,), STD).cuda()
        view = torch.tensor([*SHIFT, 1.0, 1.0, 0.0]).expand(1, batch, 5)
        self.views, self.step = view.contiguous().cuda(), torch.zeros(1, dtype=torch.int32).cuda()
        self.lr = torch.full((batch,), LR).cuda()
        self.geometry = Geometry(size, size, size, size)
        self.epilogue = Epilogue(self.colour, self.mean, self.std, GAIN)
        sets = min(16, max(2, int(ROTATED_BYTES / (batch * sum(step_bytes(size, "fast").values())))))
        self.states = []
        for _ in range(sets):
            spectrum = torch.randn(shape, generator=generator, device="cuda") * 0.4
            grad = torch.randn((batch, 4, size, size), generator=generator, device="cuda").to(VIEW)
            grad = grad.contiguous(memory_format=torch.channels_last)
            self.states.append(State(spectrum, grad, torch.zeros_like(spectrum), torch.zeros_like(spectrum)))
        self._start = self.states[0].spectrum.clone()

    def rewind(self) -> State:
        """The first set as it was at the start: where errors are measured."""
        state = self.states[0]
        with torch.no_grad():
            state.spectrum.copy_(self._start)
        state.exp_avg.zero_()
        state.exp_avg_sq.zero_()
        return state

    def truth(self) -> Truth:
        """The first image of the first set, in float64 on the CPU."""
        spectrum = self._start[:1].double().cpu().requires_grad_()
        view = synthesize(
            spectrum,
            self.envelope.double().cpu(),
            self.views[0, :1].double().cpu(),
            width=self.size,
            out_size=(self.size, self.size),
            colour=self.colour.double().cpu(),
            mean=self.mean.double().cpu(),
            std=self.std.double().cpu(),
            gain=GAIN,
            dtype=torch.float64,
            backend="reference",
        )
        cotangent = self.states[0].grad[:1, :3].double().cpu()
        return Truth(view.detach(), torch.autograd.grad(view, spectrum, cotangent)[0])

    def gradient_error(self, truth: Truth) -> float:
        """Relative error of the gradient that one step from the start left in Adam's first moment, a tenth of it."""
        return relative(self.states[0].exp_avg[:1] * 10, truth.gradient)


def relative(value: Tensor, truth: Tensor) -> float:
    """The L2 distance of a tensor from the truth, over the truth's norm."""
    value = value.detach().double().cpu()
    return ((value - truth).norm() / truth.norm()).item()
