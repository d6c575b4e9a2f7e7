"""The synthesis for a hot loop: buffers allocated once, no autograd, nothing that looks at the device.

One step is `synthesize_into`, the network and its gradient, `synthesize_adjoint_adam_`, and the step counter
plus one. On a GPU all of that can be captured in a CUDA graph, after one step outside the capture has loaded
the kernels. The views of all steps are drawn beforehand; the counter on the device picks the current ones.

    buffers = Buffers.allocate(batch, height, width, out_size, colour=colour, mean=mean, std=std, device=device)
    step = torch.zeros(1, dtype=torch.int32, device=device)
    for _ in range(steps):
        synthesize_into(buffers, spectrum, envelope, views, step)
        grad = ...  # of a loss, by buffers.view
        synthesize_adjoint_adam_(buffers, grad, spectrum, exp_avg, exp_avg_sq, lr, envelope, views, step)
        step += 1
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from fvfast_kernels import cpu, reference, resample
from fvfast_kernels.dispatch import resolve
from fvfast_kernels.geometry import Epilogue, Geometry


@dataclass
class Buffers:
    """The view and all that a step keeps between its two halves."""

    geometry: Geometry
    epilogue: Epilogue
    view: Tensor  # [B, 3 or 4, Rh, Rw], filled by `synthesize_into`
    layout: str
    precision: str
    backend: str
    kept: Any = field(default=None, repr=False)  # the backend's own: launch.Workspace, cpu.Batch or reference.Saved

    @classmethod
    def allocate(
        cls,
        batch: int,
        height: int,
        width: int,
        out_size: tuple[int, int],
        *,
        colour: Tensor,
        mean: Tensor,
        std: Tensor,
        device: torch.device | str,
        gain: float = 0.25,
        precision: str = "exact",
        dtype: torch.dtype = torch.float32,
        layout: str = "nchw",
        band: int | None = None,
        antialias: bool = True,
        border: str = "wrap",
        backend: str = "auto",
    ) -> Buffers:
        """Buffers for a batch of one shape; the arguments are those of `synthesize`."""
        device = torch.device(device)
        chosen = resolve(backend, device)
        geometry = Geometry(height, width, *out_size, band, antialias, border)
        epilogue = Epilogue(colour.contiguous(), mean.contiguous(), std.contiguous(), float(gain))
        kind = torch.contiguous_format if layout == "nchw" else torch.channels_last
        shape = (batch, 4 if layout == "nhwc4" else 3, *out_size)
        view = torch.empty(shape, dtype=dtype, device=device, memory_format=kind)
        buffers = cls(geometry, epilogue, view, layout, precision, chosen)
        if chosen == "triton":
            from fvfast_kernels import launch

            buffers.kept = launch.Workspace.allocate(batch, geometry, precision, device)
        elif device.type == "cpu":
            buffers.kept = cpu.Batch(batch, geometry, epilogue)
        return buffers


def synthesize_into(
    buffers: Buffers,
    spectrum: Tensor,
    envelope: Tensor,
    views: Tensor,
    step: Tensor,
    *,
    magnitude: Tensor | None = None,
    shear: bool = True,
) -> None:
    """Fill `buffers.view` with the views of the current step.

    Args:
        buffers: for this batch and shape.
        spectrum: contiguous (B, 3, 2, H, M) float32; with a magnitude, the phase (B, 3, H, M).
        envelope: contiguous (H, M) or (B, H, M).
        views: contiguous (steps, B, 5): the table of all steps' views.
        step: (1,) int32 on the same device, from 0: the row of the table.
        magnitude: as in `synthesize`, contiguous.
        shear: False promises that no view in the table has a shear, and saves its phases.
    """
    if buffers.backend == "triton":
        from fvfast_kernels import launch

        source = launch.Source(spectrum, envelope, views, step, magnitude, shear)
        launches = launch.forward_launches(source, buffers.view, buffers.kept, _plan(buffers))
        launch.run(launches, spectrum.device)
        return
    planes = (spectrum if magnitude is None else reference.polar(magnitude, spectrum)).detach()
    if spectrum.device.type == "cpu":
        buffers.kept.forward(planes, envelope, views, int(step), buffers.view.detach())
        return
    constants = (buffers.geometry, buffers.epilogue, buffers.layout, buffers.view.dtype)
    current = views.index_select(0, step)[0]  # looks at no value on the host: a CUDA graph may hold the reference too
    view, buffers.kept = reference.synthesize(planes, envelope, current, *constants)
    buffers.view.detach().copy_(view)


def synthesize_adjoint_adam_(
    buffers: Buffers,
    grad: Tensor,
    spectrum: Tensor,
    exp_avg: Tensor,
    exp_avg_sq: Tensor,
    lr: Tensor,
    envelope: Tensor,
    views: Tensor,
    step: Tensor,
    *,
    betas: tuple[float, float] = (0.9, 0.999),
    eps: float = 1e-8,
    magnitude: Tensor | None = None,
    shear: bool = True,
) -> None:
    """Update the spectrum (or phase) in place by Adam, from the gradient of a loss by `buffers.view`.

    `synthesize_into` with the same arguments must have been the last call on these buffers. Adam's own step
    number is step + 1. With a band, frequencies out of play keep their values and their moments.

    Args:
        grad: (B, 3 or 4, Rh, Rw), in any strides and floating-point dtype.
        exp_avg, exp_avg_sq: Adam's moments, contiguous, like the spectrum.
        lr: (B,) float32 on the device.
        betas, eps: as in torch.optim.Adam.
    """
    if buffers.backend == "triton":
        from fvfast_kernels import launch

        source = launch.Source(spectrum, envelope, views, step, magnitude, shear)
        adam = launch.Adam(exp_avg, exp_avg_sq, lr, betas, eps)
        launches = launch.adjoint_launches(source, grad, spectrum, buffers.kept, _plan(buffers), adam)
        launch.run(launches, spectrum.device)
        return
    with torch.no_grad():
        if spectrum.device.type == "cpu":
            gradient = buffers.kept.adjoint(grad)
        else:
            gradient = reference.synthesize_adjoint(grad, buffers.kept, buffers.geometry, buffers.epilogue)
        if magnitude is not None:
            gradient = reference.polar_adjoint(gradient, reference.polar(magnitude, spectrum))
        if spectrum.device.type == "cpu":
            cpu.adam_(spectrum, gradient, exp_avg, exp_avg_sq, int(step), lr, betas, eps)
        else:
            resample.adam_(spectrum, gradient, exp_avg, exp_avg_sq, step + 1, lr, betas, eps)


def _plan(buffers: Buffers):
    from fvfast_kernels import launch

    return launch.Plan(buffers.geometry, buffers.epilogue, buffers.precision == "exact")
