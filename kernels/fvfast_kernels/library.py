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


def _geometry(spectrum_height, width, out_height, out_width, band, antialias, border) -> Geometry:
    return Geometry(spectrum_height, width, out_height, out_width, band, antialias, border)


@custom_op("fvfast::synthesize", mutates_args=())
def synthesize(
    spectrum: Tensor,
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
    batch, geometry = (
        spectrum.shape[0],
        _geometry(spectrum.shape[3], width, out_height, out_width, band, antialias, border),
    )
    workspace = launch.Workspace.allocate(batch, geometry, precision, spectrum.device)
    view = launch.empty_view(batch, geometry, layout, dtype, spectrum.device)
    epilogue = Epilogue(colour.contiguous(), mean.contiguous(), std.contiguous(), gain)
    launches = launch.forward_launches(
        spectrum.contiguous(), envelope.contiguous(), views.contiguous(), None, view, workspace,
        geometry, epilogue, exact=precision == "exact", shear=True,
    )  # fmt: skip
    launch.run(launches, spectrum.device)
    return view, workspace.sigmoid


@synthesize.register_fake
def _(
    spectrum, envelope, views, colour, mean, std, width, out_height, out_width, gain, precision, dtype, layout,
    band, antialias, border,
):  # fmt: skip
    batch = spectrum.shape[0]
    geometry = _geometry(spectrum.shape[3], width, out_height, out_width, band, antialias, border)
    kind = torch.float32 if precision == "exact" else torch.float16
    sigmoid = spectrum.new_empty((batch, 3, out_height, out_width), dtype=kind)
    return launch.empty_view(batch, geometry, layout, dtype, spectrum.device), sigmoid


@custom_op("fvfast::synthesize_adjoint", mutates_args=())
def synthesize_adjoint(
    grad: Tensor,
    sigmoid: Tensor,
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
    """The gradient of the spectrum from that of the view, in whatever strides it comes."""
    batch, height = grad.shape[0], envelope.shape[-2]
    geometry = _geometry(height, width, grad.shape[2], grad.shape[3], band, antialias, border)
    shape = (batch, 3, 2, height, width // 2 + 1)
    allocate = torch.empty if geometry.whole else torch.zeros
    result = allocate(shape, dtype=torch.float32, device=grad.device)
    workspace = launch.Workspace(launch.empty_y(batch, geometry, grad.device), sigmoid)
    epilogue = Epilogue(colour.contiguous(), colour, std.contiguous(), gain)  # the mean has no part in it
    launches = launch.adjoint_launches(
        grad, result, envelope.contiguous(), views.contiguous(), None, workspace, geometry, epilogue, None,
        exact=precision == "exact", shear=True,
    )  # fmt: skip
    launch.run(launches, grad.device)
    return result


@synthesize_adjoint.register_fake
def _(grad, sigmoid, envelope, views, colour, std, width, gain, precision, band, antialias, border):
    shape = (grad.shape[0], 3, 2, envelope.shape[-2], width // 2 + 1)
    return grad.new_empty(shape, dtype=torch.float32)


def _save_synthesis(ctx, inputs, output) -> None:
    _, envelope, views, colour, _, std, width, _, _, gain, precision, _, _, band, antialias, border = inputs
    ctx.save_for_backward(output[1], envelope, views, colour, std)
    ctx.options = (width, gain, precision, band, antialias, border)
    ctx.mark_non_differentiable(output[1])


def _synthesis_backward(ctx, grad, _):
    return (synthesize_adjoint(grad, *ctx.saved_tensors, *ctx.options), *(None,) * 15)


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
    launch.run(
        (launch.warp_adjoint_launch(grad.contiguous(), matrix.contiguous(), out, border),), grad.device
    )
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
