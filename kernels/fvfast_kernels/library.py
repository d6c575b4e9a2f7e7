"""The kernels as torch custom operators, with shapes for tracing and gradients; `ops.py` calls them.

Importing this module imports triton. Inputs are checked in `ops.py`; here they are made contiguous and
launched.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.library import custom_op, register_autograd

from fvfast_kernels import launch
from fvfast_kernels.geometry import Epilogue, Geometry


def _source(spectrum: Tensor, magnitude: Tensor | None, envelope: Tensor, views: Tensor) -> launch.Source:
    magnitude = magnitude if magnitude is None else magnitude.contiguous()
    return launch.Source(spectrum.contiguous(), envelope.contiguous(), views.contiguous(), magnitude=magnitude)


def _epilogue(colour: Tensor, mean: Tensor, std: Tensor, gain: float) -> Epilogue:
    return Epilogue(colour.contiguous(), mean.contiguous(), std.contiguous(), gain)


@custom_op("fvfast::synthesize", mutates_args=())
def synthesize(
    spectrum: Tensor,
    magnitude: Tensor | None,
    envelope: Tensor,
    views: Tensor,
    colour: Tensor,
    mean: Tensor,
    std: Tensor,
    width: int,
    out_height: int,
    out_width: int,
    gain: float,
    precision: str,
    dtype: torch.dtype,
    layout: str,
    band: int | None,
    antialias: bool,
    border: str,
) -> tuple[Tensor, Tensor]:
    """The view, and the sigmoid that its adjoint needs."""
    batch, height = spectrum.shape[0], spectrum.shape[-2]
    geometry = Geometry(height, width, out_height, out_width, band, antialias, border)
    workspace = launch.Workspace.allocate(batch, geometry, precision, spectrum.device)
    view = launch.empty_view(batch, geometry, layout, dtype, spectrum.device)
    plan = launch.Plan(geometry, _epilogue(colour, mean, std, gain), precision == "exact")
    source = _source(spectrum, magnitude, envelope, views)
    launch.run(launch.forward_launches(source, view, workspace, plan), spectrum.device)
    return view, workspace.sigmoid


@synthesize.register_fake
def _(
    spectrum, magnitude, envelope, views, colour, mean, std, width, out_height, out_width, gain, precision,
    dtype, layout, band, antialias, border,
):  # fmt: skip
    batch, height = spectrum.shape[0], spectrum.shape[-2]
    geometry = Geometry(height, width, out_height, out_width, band, antialias, border)
    view = launch.empty_view(batch, geometry, layout, dtype, spectrum.device)
    return view, launch.empty_sigmoid(batch, geometry, precision, spectrum)


@custom_op("fvfast::synthesize_adjoint", mutates_args=())
def synthesize_adjoint(
    grad: Tensor,
    sigmoid: Tensor,
    phase: Tensor | None,
    magnitude: Tensor | None,
    envelope: Tensor,
    views: Tensor,
    colour: Tensor,
    std: Tensor,
    width: int,
    gain: float,
    precision: str,
    band: int | None,
    antialias: bool,
    border: str,
) -> Tensor:
    """The gradient of the spectrum, or of its phase, from that of the view in whatever strides it comes."""
    geometry = Geometry(envelope.shape[-2], width, grad.shape[2], grad.shape[3], band, antialias, border)
    allocate = torch.empty if geometry.whole else torch.zeros
    result = allocate(_spectrum_shape(grad, phase, envelope), dtype=torch.float32, device=grad.device)
    workspace = launch.Workspace.allocate(grad.shape[0], geometry, precision, grad.device, sigmoid)
    plan = launch.Plan(geometry, _epilogue(colour, std, std, gain), precision == "exact")  # needs no mean
    source = _source(result if phase is None else phase, magnitude, envelope, views)
    launches = launch.adjoint_launches(source, grad, result, workspace, plan, None)
    launch.run((launch.bases_launch(source, workspace, plan), *launches), grad.device)
    return result


def _spectrum_shape(grad: Tensor, phase: Tensor | None, envelope: Tensor) -> tuple[int, ...]:
    planes = (2,) if phase is None else ()
    return grad.shape[0], 3, *planes, *envelope.shape[-2:]


@synthesize_adjoint.register_fake
def _(
    grad, sigmoid, phase, magnitude, envelope, views, colour, std, width, gain, precision, band, antialias,
    border,
):  # fmt: skip
    return grad.new_empty(_spectrum_shape(grad, phase, envelope), dtype=torch.float32)


def _save_synthesis(ctx, inputs, output) -> None:
    spectrum, magnitude, envelope, views, colour, _, std, width, _, _, gain, precision, *_ = inputs
    phase = spectrum if magnitude is not None else None
    ctx.save_for_backward(output[1], phase, magnitude, envelope, views, colour, std)
    ctx.options = (width, gain, precision, *inputs[-3:])
    ctx.mark_non_differentiable(output[1])


def _synthesis_backward(ctx, grad, _):
    return (synthesize_adjoint(grad, *ctx.saved_tensors, *ctx.options), *(None,) * 16)


register_autograd("fvfast::synthesize", _synthesis_backward, setup_context=_save_synthesis)


# --- Warp. A border is "wrap", or the number outside.


@custom_op("fvfast::warp", mutates_args=())
def warp(image: Tensor, matrix: Tensor, out_height: int, out_width: int, wrap: bool, fill: float) -> Tensor:
    out = image.new_empty((*image.shape[:2], out_height, out_width))
    border = "wrap" if wrap else fill
    launch.run((launch.warp_launch(image.contiguous(), matrix.contiguous(), out, border),), image.device)
    return out


@warp.register_fake
def _(image, matrix, out_height, out_width, wrap, fill):
    return image.new_empty((*image.shape[:2], out_height, out_width))


@custom_op("fvfast::warp_adjoint", mutates_args=())
def warp_adjoint(grad: Tensor, matrix: Tensor, height: int, width: int, wrap: bool) -> Tensor:
    out = grad.new_empty((*grad.shape[:2], height, width))
    border = "wrap" if wrap else 0.0
    launch.run((launch.warp_adjoint_launch(grad.contiguous(), matrix.contiguous(), out, border),), grad.device)
    return out


@warp_adjoint.register_fake
def _(grad, matrix, height, width, wrap):
    return grad.new_empty((*grad.shape[:2], height, width))


def _save_warp(ctx, inputs, output) -> None:
    image, matrix, _, _, wrap, _ = inputs
    ctx.save_for_backward(matrix)
    ctx.options = (*image.shape[2:], wrap)


def _warp_backward(ctx, grad):
    return warp_adjoint(grad, *ctx.saved_tensors, *ctx.options), None, None, None, None, None


register_autograd("fvfast::warp", _warp_backward, setup_context=_save_warp)


# --- Adam.


@custom_op("fvfast::adam_", mutates_args=("param", "exp_avg", "exp_avg_sq"))
def adam_(
    param: Tensor,
    grad: Tensor,
    exp_avg: Tensor,
    exp_avg_sq: Tensor,
    step: Tensor,
    lr: Tensor,
    beta1: float,
    beta2: float,
    eps: float,
) -> None:
    update = launch.adam_launch(
        param, grad.contiguous(), exp_avg, exp_avg_sq, step, lr.contiguous(), (beta1, beta2), eps
    )
    launch.run((update,), param.device)


@adam_.register_fake
def _(param, grad, exp_avg, exp_avg_sq, step, lr, beta1, beta2, eps):
    return None
