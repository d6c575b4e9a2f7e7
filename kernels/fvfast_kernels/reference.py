"""Synthesis in plain PyTorch: from a Fourier spectrum to the view that a network sees, and back.

This module is the specification of the kernels in `synthesis.py`, which follow it step by step:

    prologue   A = sqrt-normalised envelope x column weight x Nyquist mask x phase ramp of the view's centre,
    times S columns    Y = cosine and sine GEMMs over the row frequencies, folded in frequency and in space
    shear      Y *= e^{2 pi i kx sigma u_i / W}
    rows       f = cosine and sine GEMMs over the column frequencies, folded in space
    epilogue   view = (sigmoid(gain * colour @ f) - mean) / std

Sample points are symmetric about the view's centre: row i lies at y0 + u_i with u_i = zy (i - (Rh-1)/2). By
the shift theorem the centre y0 is a phase ramp on the spectrum, so that the bases hold cos(2 pi ky u_i / H)
and sin(2 pi ky u_i / H) for ky >= 0 and u_i >= 0 only: cosines are even and sines odd in both. Three quarters
of the first product and half of the second are never computed. A basis depends on the zoom and on nothing
else.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from fvfast_kernels.geometry import (
    Epilogue,
    Geometry,
    cis,
    half_offsets,
    inside_mask,
    nyquist_mask,
    split_product,
    turns,
    view_centre,
)


@dataclass(frozen=True)
class Bases:
    """All that a batch of views contributes to the synthesis; a leading 1 means that the batch shares it."""

    positive: tuple[Tensor, Tensor]  # [B, rows, 1, K] x2: complex factor of S[ky], ky = 0 .. rows-1
    negative: tuple[Tensor, Tensor]  # [B, rows, 1, K] x2: complex factor of S[-ky]; zero where -ky is no row of its own
    column_cos: Tensor  # [B, ceil(Rh/2), rows]
    column_sin: Tensor  # [B, ceil(Rh/2), rows]
    ramp: tuple[Tensor, Tensor] | None  # [B, Rh, 1, K] x2: the shear; None if nothing is sheared
    row_cos: Tensor  # [B, K, ceil(Rw/2)]
    row_minus_sin: Tensor  # [B, K, ceil(Rw/2)]
    inside: Tensor | None  # [B, 1, Rh, Rw]: 1 on the canvas, 0 outside; None if the canvas wraps around


# --- Folding: an array symmetric about its middle, from and to its even and odd parts.


def unfold(even: Tensor, odd: Tensor, size: int, dim: int) -> Tensor:
    """The `size` entries whose upper half is even + odd and whose lower half, mirrored, is even - odd."""
    lower = (even - odd).narrow(dim, size % 2, size // 2)
    return torch.cat((lower.flip(dim), even + odd), dim)


def fold(full: Tensor, dim: int) -> tuple[Tensor, Tensor]:
    """The adjoint of `unfold`: sum and difference of the upper half and the mirrored lower half."""
    size = full.shape[dim]
    upper, lower = full.narrow(dim, size // 2, (size + 1) // 2), full.narrow(dim, 0, size // 2).flip(dim)
    if size % 2 == 0:
        return upper + lower, upper - lower
    middle, rest = upper.narrow(dim, 0, 1), upper.narrow(dim, 1, size // 2)
    return torch.cat((middle, rest + lower), dim), torch.cat((middle, rest - lower), dim)


# --- What the views contribute.


def shared(values: Tensor) -> Tensor:
    """Its first row alone if a batch of view parameters is constant, so that the batch can share one basis.

    On an accelerator the values are not looked at, for that would wait for the device.
    """
    constant = values.stride(0) == 0 or values.shape[0] == 1
    if not constant and values.device.type == "cpu":
        constant = bool((values == values[0]).all())
    return values[:1] if constant else values


def sampling_basis(zoom: Tensor, size: int, frequency: Tensor, period: int) -> tuple[Tensor, Tensor]:
    """cos and sin of 2 pi frequency u / period at a view's offsets u >= 0: [B, ceil(size/2), K]."""
    whole, fraction = split_product(zoom[:, None], half_offsets(size, zoom))
    return cis(turns(frequency, (whole[..., None], fraction[..., None]), period))


def spectrum_factors(envelope: Tensor, views: Tensor, geometry: Geometry) -> tuple[tuple[Tensor, Tensor], ...]:
    """Envelope, weight, normalisation, mask and phase ramp as complex factors of S[ky] and of S[-ky]."""
    h, w, rows, columns = geometry.height, geometry.width, geometry.rows, geometry.columns
    k = torch.arange(rows, device=views.device)
    kx = torch.arange(columns, device=views.device)
    weight = torch.where((kx == 0) | (2 * kx == w), 1.0, 2.0).to(views) / math.sqrt(h * w)
    (whole_y, fraction_y), (whole_x, fraction_x) = view_centre(views, h, w)
    cos_y, sin_y = cis(turns(k, (whole_y[:, None], fraction_y[:, None]), h))  # [B, rows]
    cos_x, sin_x = cis(turns(kx, (whole_x[:, None], fraction_x[:, None]), w))  # [B, K]
    factors = []
    for sign, own_row in ((1, 2 * k != h), (-1, k != 0)):
        scale = envelope[..., (sign * k) % h, :columns] * weight * own_row[:, None]  # [rows, K] or [B, rows, K]
        if geometry.antialias:
            scale = scale * nyquist_mask(sign * k, kx, views, geometry)
        cos = cos_y[:, :, None] * cos_x[:, None] - sign * sin_y[:, :, None] * sin_x[:, None]
        sin = cos_y[:, :, None] * sin_x[:, None] + sign * sin_y[:, :, None] * cos_x[:, None]
        factors.append(((scale * cos).unsqueeze(2), (scale * sin).unsqueeze(2)))
    return tuple(factors)


def shear_ramp(views: Tensor, geometry: Geometry) -> tuple[Tensor, Tensor]:
    """cos and sin of 2 pi kx sigma u_i / W for every view row: [B, Rh, 1, K]."""
    zy, sigma = views[:, 2, None], views[:, 4, None]
    offset = torch.arange(geometry.out_height, device=views.device) - (geometry.out_height - 1) / 2
    whole, fraction = split_product(zy, offset.to(views))
    # sigma is no integer: its product with a whole number is split again, that with a fraction needs no care.
    shift, rest = split_product(sigma, whole)
    shift, rest = shift[..., None], (rest + sigma * fraction)[..., None]
    cos, sin = cis(turns(torch.arange(geometry.columns, device=views.device), (shift, rest), geometry.width))
    return cos[:, :, None], sin[:, :, None]


def bases(envelope: Tensor, views: Tensor, geometry: Geometry) -> Bases:
    """Everything that depends on the views, in the views' precision."""
    k = torch.arange(geometry.rows, device=views.device)
    kx = torch.arange(geometry.columns, device=views.device)
    cos_y, sin_y = sampling_basis(shared(views[:, 2]), geometry.out_height, k, geometry.height)
    cos_x, sin_x = sampling_basis(shared(views[:, 3]), geometry.out_width, kx, geometry.width)
    positive, negative = spectrum_factors(envelope, views, geometry)
    upright = views.device.type == "cpu" and not bool(views[:, 4].any())
    return Bases(
        positive,
        negative,
        cos_y,
        sin_y,
        None if upright else shear_ramp(views, geometry),
        cos_x.transpose(1, 2),
        -sin_x.transpose(1, 2),
        inside_mask(views, geometry) if geometry.border == "mask" else None,
    )


def polar(magnitude: Tensor, phase: Tensor) -> Tensor:
    """The planes [B, 3, 2, H, M] of magnitude e^{i phase}."""
    return torch.stack((magnitude * torch.cos(phase), magnitude * torch.sin(phase)), 2)


def polar_adjoint(grad: Tensor, spectrum: Tensor) -> Tensor:
    """The gradient of the phase [B, 3, H, M]: d/dphi of m e^{i phi} is i m e^{i phi}."""
    return spectrum[:, :, 0] * grad[:, :, 1] - spectrum[:, :, 1] * grad[:, :, 0]


# --- The field f and its adjoint, by matrix products. Dimension 3 holds the planes (real, imaginary).


def multiply(factor: tuple[Tensor, Tensor], planes: Tensor) -> Tensor:
    cos, sin = factor
    real, imag = planes.unbind(3)
    return torch.stack((cos * real - sin * imag, cos * imag + sin * real), 3)


def multiply_conj(factor: tuple[Tensor, Tensor], planes: Tensor) -> Tensor:
    cos, sin = factor
    real, imag = planes.unbind(3)
    return torch.stack((cos * real + sin * imag, cos * imag - sin * real), 3)


def times_i(planes: Tensor) -> Tensor:
    real, imag = planes.unbind(3)
    return torch.stack((-imag, real), 3)


def product(basis: Tensor, planes: Tensor) -> Tensor:
    """Batched basis @ planes, all trailing dimensions of the planes taken as one."""
    batch, inner, *trailing = planes.shape
    flat = planes.reshape(batch, inner, -1)
    return torch.bmm(basis.expand(batch, -1, -1), flat).view(batch, basis.shape[1], *trailing)


def mirrored(rows: int, height: int, device: torch.device) -> Tensor:
    """Where the rows of frequency -k are found in a spectrum, k = 0 .. rows-1."""
    return -torch.arange(rows, device=device) % height


def field(spectrum: Tensor, bases: Bases, geometry: Geometry) -> Tensor:
    """f at every pixel of the view: [B, Rh, 3, Rw]."""
    rows, columns = geometry.rows, geometry.columns
    kept = spectrum[..., :columns].permute(0, 3, 1, 2, 4)  # [B, H, 3, 2, K]
    positive = multiply(bases.positive, kept[:, :rows])  # [B, rows, 3, 2, K]
    negative = multiply(bases.negative, kept[:, mirrored(rows, geometry.height, spectrum.device)])
    # e^{i t} a + e^{-i t} b = cos t (a + b) + sin t i (a - b)
    even = product(bases.column_cos, positive + negative)  # [B, ceil(Rh/2), 3, 2, K]
    odd = product(bases.column_sin, times_i(positive - negative))
    y = unfold(even, odd, geometry.out_height, 1)  # [B, Rh, 3, 2, K]
    if bases.ramp is not None:
        y = multiply(bases.ramp, y)
    batch, real, imag = y.shape[0], *y.flatten(1, 2).unbind(2)  # [B, Rh * 3, K]
    even = torch.bmm(real, bases.row_cos.expand(batch, -1, -1))  # [B, Rh * 3, ceil(Rw/2)]
    odd = torch.bmm(imag, bases.row_minus_sin.expand(batch, -1, -1))
    return unfold(even, odd, geometry.out_width, 2).unflatten(1, (geometry.out_height, 3))


def field_adjoint(grad: Tensor, bases: Bases, geometry: Geometry) -> Tensor:
    """The gradient of the spectrum [B, 3, 2, H, M] from that of the field [B, Rh, 3, Rw]."""
    rows, columns, batch = geometry.rows, geometry.columns, grad.shape[0]
    even, odd = fold(grad.flatten(1, 2), 2)
    real = torch.bmm(even, bases.row_cos.transpose(1, 2).expand(batch, -1, -1))
    imag = torch.bmm(odd, bases.row_minus_sin.transpose(1, 2).expand(batch, -1, -1))
    y = torch.stack((real, imag), 2).unflatten(1, (geometry.out_height, 3))  # [B, Rh, 3, 2, K]
    if bases.ramp is not None:
        y = multiply_conj(bases.ramp, y)
    even, odd = fold(y, 1)
    total = product(bases.column_cos.transpose(1, 2), even)  # [B, rows, 3, 2, K]
    difference = times_i(product(bases.column_sin.transpose(1, 2), odd))  # conj(i) = -i, hence the signs below
    positive = multiply_conj(bases.positive, total - difference).permute(0, 2, 3, 1, 4)
    negative = multiply_conj(bases.negative, total + difference).permute(0, 2, 3, 1, 4)
    shape = (batch, 3, 2, geometry.height, geometry.width // 2 + 1)
    result = grad.new_empty(shape) if geometry.whole else grad.new_zeros(shape)
    # The row of ky = -H/2 is written twice; the second, the negative frequency's, is its own.
    result[..., :rows, :columns] = positive
    result[..., geometry.height - rows + 1 :, :columns] = negative[..., 1:, :].flip(-2)
    return result


# --- The same by torch.fft, where every sample point is a pixel of the canvas.


def integer_shifts(views: Tensor, geometry: Geometry) -> list[tuple[int, int]] | None:
    """The (ty, tx) of a batch of unscaled whole-pixel views, or None; on an accelerator always None."""
    same_size = (geometry.out_height, geometry.out_width) == (geometry.height, geometry.width)
    if views.device.type != "cpu" or not same_size or not geometry.whole or geometry.border != "wrap":
        return None
    shifts, plain = views[:, :2], views.new_tensor([1.0, 1.0, 0.0])
    if not bool((views[:, 2:] == plain).all()) or not bool((shifts == shifts.round()).all()):
        return None
    return [(int(ty), int(tx)) for ty, tx in shifts.tolist()]


def roll(planes: Tensor, shifts: list[tuple[int, int]], sign: int) -> Tensor:
    """Each image of a batch rolled by sign * its own shift."""
    if all(shift == shifts[0] for shift in shifts):
        return planes if shifts[0] == (0, 0) else planes.roll((sign * shifts[0][0], sign * shifts[0][1]), (-2, -1))
    rolled = (p.roll((sign * ty, sign * tx), (-2, -1)) for p, (ty, tx) in zip(planes, shifts, strict=True))
    return torch.stack(tuple(rolled))


def field_fft(spectrum: Tensor, envelope: Tensor, shifts: list[tuple[int, int]], geometry: Geometry) -> Tensor:
    scaled = spectrum * per_image(envelope)
    size = (geometry.height, geometry.width)
    canvas = torch.fft.irfft2(torch.complex(scaled[:, :, 0], scaled[:, :, 1]), s=size, norm="ortho")
    return roll(canvas, shifts, -1).transpose(1, 2)


def field_fft_adjoint(grad: Tensor, envelope: Tensor, shifts: list[tuple[int, int]], geometry: Geometry) -> Tensor:
    transform = torch.fft.rfft2(roll(grad.transpose(1, 2), shifts, 1), norm="ortho")  # [B, 3, H, M]
    kx = torch.arange(geometry.columns, device=grad.device)
    weight = torch.where((kx == 0) | (2 * kx == geometry.width), 1.0, 2.0).to(grad)
    return torch.stack((transform.real, transform.imag), 2) * (per_image(envelope) * weight)


def per_image(envelope: Tensor) -> Tensor:
    return envelope if envelope.dim() == 2 else envelope[:, None, None]


# --- The epilogue and its adjoint.


def apply_epilogue(f: Tensor, epilogue: Epilogue, inside: Tensor | None, layout: str, dtype: torch.dtype):
    """From the field [B, Rh, 3, Rw] to the view, and the sigmoid [B, 3, Rh, Rw] that its adjoint needs."""
    batch, out_height, _, out_width = f.shape
    mixed = torch.matmul(epilogue.gain * epilogue.colour, f).transpose(1, 2)  # [B, 3, Rh, Rw]
    sigmoid = torch.sigmoid(mixed)
    mean, std = epilogue.mean[:, None, None], epilogue.std[:, None, None]
    view = torch.addcmul(-mean / std, sigmoid, 1 / std)
    if inside is not None:
        view = view * inside
    if layout == "nchw":
        return view.to(dtype, memory_format=torch.contiguous_format).contiguous(), sigmoid
    channels = 4 if layout == "nhwc4" else 3
    out = f.new_zeros((batch, out_height, out_width, channels), dtype=dtype).permute(0, 3, 1, 2)
    out[:, :3] = view
    return out, sigmoid


def epilogue_adjoint(grad: Tensor, sigmoid: Tensor, epilogue: Epilogue, inside: Tensor | None) -> Tensor:
    """The gradient of the field [B, Rh, 3, Rw] from that of the view [B, 3 or 4, Rh, Rw]."""
    grad = grad[:, :3].to(sigmoid.dtype)
    if inside is not None:
        grad = grad * inside
    through = torch.ops.aten.sigmoid_backward(grad, sigmoid).transpose(1, 2)  # [B, Rh, 3, Rw]
    return torch.matmul(epilogue.gain * (epilogue.colour / epilogue.std[:, None]).t(), through)


# --- The whole.


@dataclass(frozen=True)
class Saved:
    """What the adjoint needs of the forward pass."""

    sigmoid: Tensor  # [B, 3, Rh, Rw]
    envelope: Tensor
    shifts: list[tuple[int, int]] | None  # if by torch.fft
    bases: Bases | None  # if by products


def synthesize(
    spectrum: Tensor,
    envelope: Tensor,
    views: Tensor,
    geometry: Geometry,
    epilogue: Epilogue,
    layout: str,
    dtype: torch.dtype,
) -> tuple[Tensor, Saved]:
    """The view and what its adjoint needs."""
    shifts = integer_shifts(views, geometry)
    factors, inside = None, None
    if shifts is not None:
        f = field_fft(spectrum, envelope, shifts, geometry)
    else:
        factors = bases(envelope, views, geometry)
        f, inside = field(spectrum, factors, geometry), factors.inside
    view, sigmoid = apply_epilogue(f, epilogue, inside, layout, dtype)
    return view, Saved(sigmoid, envelope, shifts, factors)


def synthesize_adjoint(grad: Tensor, saved: Saved, geometry: Geometry, epilogue: Epilogue) -> Tensor:
    """The gradient of the spectrum from that of the view."""
    inside = None if saved.bases is None else saved.bases.inside
    grad = epilogue_adjoint(grad, saved.sigmoid, epilogue, inside)
    if saved.bases is not None:
        return field_adjoint(grad, saved.bases, geometry)
    assert saved.shifts is not None
    return field_fft_adjoint(grad, saved.envelope, saved.shifts, geometry)


class Synthesis(torch.autograd.Function):
    """The synthesis, differentiable in the spectrum only."""

    @staticmethod
    def forward(ctx, spectrum, envelope, views, geometry, epilogue, layout, dtype):
        view, ctx.saved = synthesize(spectrum, envelope, views, geometry, epilogue, layout, dtype)
        ctx.geometry, ctx.epilogue = geometry, epilogue
        return view

    @staticmethod
    @once_differentiable
    def backward(ctx, *grads):  # pyright: ignore[reportIncompatibleMethodOverride]
        gradient = synthesize_adjoint(grads[0], ctx.saved, ctx.geometry, ctx.epilogue)
        return gradient, None, None, None, None, None, None
