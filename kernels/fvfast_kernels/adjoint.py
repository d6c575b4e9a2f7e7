"""The adjoint of `synthesis.py`: gradient of a view -> rows -> columns -> spectrum, with Adam at its end.

The same two products transposed, in the reverse order and with the conjugate factors, as in `reference.py`.
With the Adam update in the epilogue of the last kernel, the gradient of the spectrum is never written.
"""

import triton
import triton.language as tl

from fvfast_kernels.synthesis import LEAST_EXPONENT, load_matrix, spectrum_factor
from fvfast_kernels.tiles import (
    adam_update,
    inside_mask,
    load_basis,
    load_view,
    one_minus_power,
    pixel_offsets,
    polar,
    product,
    raise_exponent,
    rescale,
    scale_from_target,
    scale_to_target,
    shear_ramp,
    split,
    view_phases,
)

# --- Rows: the epilogue's adjoint and the product over the view's pixels.


@triton.jit
def load_field_grad(
    grad_ptr, sigmoid_ptr, i, j, there, start, image, colour_ptr, std_ptr, gain,
    stride_b, stride_c, stride_i, stride_j,
    RH: tl.constexpr, RW: tl.constexpr, HP: tl.constexpr, NHWC4: tl.constexpr, half: tl.constexpr,
):  # fmt: skip
    """The gradient of the three channels of f on one tile [BI, BJ]; 0 where not `there`."""
    if NHWC4:
        BJ: tl.constexpr = there.shape[1]
        at = (i * (4 * RW))[:, None] + pixel_offsets(start, 1 - 2 * half, BJ, RW)[None, :]
        within = (i < RH)[:, None] & (start * 4 + tl.arange(0, 4 * BJ) < (RW + 1) // 2 * 4)[None, :]
        pixel = tl.load(grad_ptr + image * (RH * RW * 4) + at, mask=within, other=0.0)
        even, odd = tl.split(pixel.reshape(there.shape[0], BJ, 2, 2))
        g0, g2 = tl.split(tl.where(there[:, :, None], even, 0.0))
        g1, _ = tl.split(tl.where(there[:, :, None], odd, 0.0))
    else:
        at = grad_ptr + image * stride_b + i[:, None] * stride_i + j[None, :] * stride_j
        g0 = tl.load(at, mask=there, other=0.0)
        g1 = tl.load(at + stride_c, mask=there, other=0.0)
        g2 = tl.load(at + 2 * stride_c, mask=there, other=0.0)
    index = start + tl.arange(0, there.shape[1])
    saved = sigmoid_ptr + (image * 6 + half) * (RH * HP) + i[:, None] * HP + index[None, :]
    s0 = tl.load(saved, mask=there, other=0.0).to(tl.float32)
    s1 = tl.load(saved + 2 * RH * HP, mask=there, other=0.0).to(tl.float32)
    s2 = tl.load(saved + 4 * RH * HP, mask=there, other=0.0).to(tl.float32)
    g0 = g0.to(tl.float32) * (s0 * (1.0 - s0)) * (gain / tl.load(std_ptr))
    g1 = g1.to(tl.float32) * (s1 * (1.0 - s1)) * (gain / tl.load(std_ptr + 1))
    g2 = g2.to(tl.float32) * (s2 * (1.0 - s2)) * (gain / tl.load(std_ptr + 2))
    m00, m01, m02, m10, m11, m12, m20, m21, m22 = load_matrix(colour_ptr)
    return m00 * g0 + m10 * g1 + m20 * g2, m01 * g0 + m11 * g1 + m21 * g2, m02 * g0 + m12 * g1 + m22 * g2


@triton.jit
def rows_adjoint(
    grad_ptr, sigmoid_ptr, views_ptr, step_ptr, basis_ptr, colour_ptr, std_ptr, y_ptr, gain, batch,
    stride_b, stride_c, stride_i, stride_j,
    H: tl.constexpr, W: tl.constexpr, RH: tl.constexpr, RW: tl.constexpr, KP: tl.constexpr,
    PX: tl.constexpr, PJ: tl.constexpr, HP: tl.constexpr,
    MASK: tl.constexpr, NHWC4: tl.constexpr, TABLE: tl.constexpr, EXACT: tl.constexpr,
    BI: tl.constexpr, BJ: tl.constexpr, BK: tl.constexpr,
):  # fmt: skip
    """The gradient of Y [B, 3, 2, RH, KP] from that of the view; a program: BI rows, BK columns."""
    tiles_k: tl.constexpr = (KP + BK - 1) // BK
    HALF: tl.constexpr = (RW + 1) // 2
    image = tl.program_id(1).to(tl.int64)
    i = tl.program_id(0) // tiles_k * BI + tl.arange(0, BI)
    kx = tl.program_id(0) % tiles_k * BK + tl.arange(0, BK)
    ty, tx, zy, zx, sigma = load_view(views_ptr, step_ptr, tl.program_id(1), batch, TABLE)
    basis_ptr += image * ((4 if EXACT else 2) * PX * PJ)

    real0 = tl.zeros((BI, BK), tl.float32)
    real1 = tl.zeros((BI, BK), tl.float32)
    real2 = tl.zeros((BI, BK), tl.float32)
    imag0 = tl.zeros((BI, BK), tl.float32)
    imag1 = tl.zeros((BI, BK), tl.float32)
    imag2 = tl.zeros((BI, BK), tl.float32)
    exponent = tl.full((BI,), LEAST_EXPONENT, tl.int32)
    for start in range(0, HALF, BJ):
        index = start + tl.arange(0, BJ)
        upper, lower = RW // 2 + index, (RW - 1) // 2 - index
        there = (i < RH)[:, None] & (index < HALF)[None, :]
        # The middle column of an odd width is its own mirror image, and counts once.
        mirrored = there & (index >= RW % 2)[None, :]
        if MASK:
            there = there & inside_mask(ty, tx, zy, zx, sigma, i, upper, H, W, RH, RW)
            mirrored = mirrored & inside_mask(ty, tx, zy, zx, sigma, i, lower, H, W, RH, RW)
        u0, u1, u2 = load_field_grad(
            grad_ptr, sigmoid_ptr, i, upper, there, start, image, colour_ptr, std_ptr, gain,
            stride_b, stride_c, stride_i, stride_j, RH, RW, HP, NHWC4, tl.constexpr(0),
        )  # fmt: skip
        l0, l1, l2 = load_field_grad(
            grad_ptr, sigmoid_ptr, i, lower, mirrored, start, image, colour_ptr, std_ptr, gain,
            stride_b, stride_c, stride_i, stride_j, RH, RW, HP, NHWC4, tl.constexpr(1),
        )  # fmt: skip
        peak = tl.maximum(tl.abs(u0) + tl.abs(l0), tl.abs(u1) + tl.abs(l1))
        peak = tl.maximum(peak, tl.abs(u2) + tl.abs(l2))
        previous, exponent = exponent, raise_exponent(exponent, tl.max(peak, 1))
        if HALF > BJ:
            keep_scale = rescale(previous, exponent)[:, None]
            real0, real1, real2 = real0 * keep_scale, real1 * keep_scale, real2 * keep_scale
            imag0, imag1, imag2 = imag0 * keep_scale, imag1 * keep_scale, imag2 * keep_scale
        scale = scale_to_target(exponent)[:, None]
        cos, minus_sin, cos_low, minus_sin_low = load_basis(
            basis_ptr + kx[:, None] * PJ + index[None, :], PX * PJ, EXACT
        )
        cos, minus_sin = tl.trans(cos), tl.trans(minus_sin)
        cos_low, minus_sin_low = tl.trans(cos_low), tl.trans(minus_sin_low)
        high, low = split((u0 + l0) * scale, EXACT)
        real0 = product(high, low, cos, cos_low, real0, EXACT)
        high, low = split((u0 - l0) * scale, EXACT)
        imag0 = product(high, low, minus_sin, minus_sin_low, imag0, EXACT)
        high, low = split((u1 + l1) * scale, EXACT)
        real1 = product(high, low, cos, cos_low, real1, EXACT)
        high, low = split((u1 - l1) * scale, EXACT)
        imag1 = product(high, low, minus_sin, minus_sin_low, imag1, EXACT)
        high, low = split((u2 + l2) * scale, EXACT)
        real2 = product(high, low, cos, cos_low, real2, EXACT)
        high, low = split((u2 - l2) * scale, EXACT)
        imag2 = product(high, low, minus_sin, minus_sin_low, imag2, EXACT)

    scale = scale_from_target(exponent)[:, None]
    PLANE: tl.constexpr = RH * KP
    at = y_ptr + image * (6 * PLANE) + i[:, None] * KP + kx[None, :]
    stored = (i < RH)[:, None] & (kx < KP)[None, :]
    tl.store(at, real0 * scale, mask=stored)
    tl.store(at + PLANE, imag0 * scale, mask=stored)
    tl.store(at + 2 * PLANE, real1 * scale, mask=stored)
    tl.store(at + 3 * PLANE, imag1 * scale, mask=stored)
    tl.store(at + 4 * PLANE, real2 * scale, mask=stored)
    tl.store(at + 5 * PLANE, imag2 * scale, mask=stored)


# --- Columns: the product over the view's rows, and what is done with the spectrum's gradient.


@triton.jit
def store_update(
    grad, at, keep, parameter_ptr, exp_avg_ptr, exp_avg_sq_ptr, rate, correction, rest1, beta2, rest2, eps,
    ADAM: tl.constexpr,
):  # fmt: skip
    """Either the gradient of one plane into `parameter_ptr`, or the Adam update that it makes there."""
    if ADAM:
        param, exp_avg, exp_avg_sq = adam_update(
            tl.load(parameter_ptr + at, mask=keep, other=0.0),
            grad,
            tl.load(exp_avg_ptr + at, mask=keep, other=0.0),
            tl.load(exp_avg_sq_ptr + at, mask=keep, other=0.0),
            rate, correction, rest1, beta2, rest2, eps,
        )  # fmt: skip
        tl.store(parameter_ptr + at, param, mask=keep)
        tl.store(exp_avg_ptr + at, exp_avg, mask=keep)
        tl.store(exp_avg_sq_ptr + at, exp_avg_sq, mask=keep)
    else:
        tl.store(parameter_ptr + at, grad, mask=keep)


@triton.jit
def columns_adjoint(
    y_ptr, spectrum_ptr, magnitude_ptr, envelope_ptr, views_ptr, step_ptr, basis_ptr,
    target_ptr, exp_avg_ptr, exp_avg_sq_ptr, lr_ptr,
    log_beta1, log_beta2, rest1, beta2, rest2, eps, batch, envelope_stride, magnitude_stride,
    H: tl.constexpr, W: tl.constexpr, RH: tl.constexpr,
    ROWS: tl.constexpr, COLUMNS: tl.constexpr, KP: tl.constexpr,
    PI: tl.constexpr, PK: tl.constexpr,
    ANTIALIAS: tl.constexpr, SHEAR: tl.constexpr, PHASE: tl.constexpr,
    TABLE: tl.constexpr, EXACT: tl.constexpr, ADAM: tl.constexpr,
    BI: tl.constexpr, BR: tl.constexpr, BK: tl.constexpr,
):  # fmt: skip
    """The spectrum's gradient or Adam update from that of Y; a program: BR folded rows, BK columns."""
    tiles_k: tl.constexpr = (COLUMNS + BK - 1) // BK
    HALF: tl.constexpr = (RH + 1) // 2
    image, channel = tl.program_id(1) // 3, tl.program_id(1).to(tl.int64)
    k = tl.program_id(0) // tiles_k * BR + tl.arange(0, BR)
    kx = tl.program_id(0) % tiles_k * BK + tl.arange(0, BK)
    ty, tx, zy, zx, sigma = load_view(views_ptr, step_ptr, image, batch, TABLE)
    y_ptr += channel * (2 * RH * KP)
    basis_ptr += image.to(tl.int64) * ((4 if EXACT else 2) * PI * PK)

    total_r = tl.zeros((BR, BK), tl.float32)
    total_i = tl.zeros((BR, BK), tl.float32)
    turned_r = tl.zeros((BR, BK), tl.float32)
    turned_i = tl.zeros((BR, BK), tl.float32)
    exponent = tl.full((BK,), LEAST_EXPONENT, tl.int32)
    for start in range(0, HALF, BI):
        index = start + tl.arange(0, BI)
        there = (index < HALF)[:, None] & (kx < KP)[None, :]
        # The middle row of an odd height is its own mirror image, and counts once.
        mirrored = there & (index >= RH % 2)[:, None]
        upper = y_ptr + (RH // 2 + index)[:, None] * KP + kx[None, :]
        lower = y_ptr + ((RH - 1) // 2 - index)[:, None] * KP + kx[None, :]
        upper_r = tl.load(upper, mask=there, other=0.0).to(tl.float32)
        upper_i = tl.load(upper + RH * KP, mask=there, other=0.0).to(tl.float32)
        lower_r = tl.load(lower, mask=mirrored, other=0.0).to(tl.float32)
        lower_i = tl.load(lower + RH * KP, mask=mirrored, other=0.0).to(tl.float32)
        if SHEAR:
            cos, sin = shear_ramp(zy, sigma, index[:, None], kx[None, :], RH, W)
            upper_r, upper_i = cos * upper_r + sin * upper_i, cos * upper_i - sin * upper_r
            lower_r, lower_i = cos * lower_r - sin * lower_i, cos * lower_i + sin * lower_r
        peak = tl.maximum(tl.abs(upper_r) + tl.abs(lower_r), tl.abs(upper_i) + tl.abs(lower_i))
        previous, exponent = exponent, raise_exponent(exponent, tl.max(peak, 0))
        if HALF > BI:
            keep_scale = rescale(previous, exponent)[None, :]
            total_r, total_i = total_r * keep_scale, total_i * keep_scale
            turned_r, turned_i = turned_r * keep_scale, turned_i * keep_scale
        scale = scale_to_target(exponent)[None, :]
        cos, sin, cos_low, sin_low = load_basis(basis_ptr + index[:, None] * PK + k[None, :], PI * PK, EXACT)
        cos, sin, cos_low, sin_low = tl.trans(cos), tl.trans(sin), tl.trans(cos_low), tl.trans(sin_low)
        high, low = split((upper_r + lower_r) * scale, EXACT)
        total_r = product(cos, cos_low, high, low, total_r, EXACT)
        high, low = split((upper_i + lower_i) * scale, EXACT)
        total_i = product(cos, cos_low, high, low, total_i, EXACT)
        high, low = split((upper_r - lower_r) * scale, EXACT)
        turned_r = product(sin, sin_low, high, low, turned_r, EXACT)
        high, low = split((upper_i - lower_i) * scale, EXACT)
        turned_i = product(sin, sin_low, high, low, turned_i, EXACT)

    scale = scale_from_target(exponent)[None, :]
    total_r, total_i = total_r * scale, total_i * scale
    turned_r, turned_i = turned_r * scale, turned_i * scale
    rate, correction = 0.0, 1.0
    if ADAM:
        step = tl.load(step_ptr).to(tl.float32) + 1.0
        rate = tl.load(lr_ptr + image) / one_minus_power(log_beta1, step)
        correction = one_minus_power(log_beta2, step)
    PLANE: tl.constexpr = H * (W // 2 + 1)
    moved = channel * (PLANE if PHASE else 2 * PLANE)
    magnitude_ptr += image.to(tl.int64) * magnitude_stride + tl.program_id(1) % 3 * PLANE
    envelope_ptr += image.to(tl.int64) * envelope_stride
    cos_y, sin_y, cos_x, sin_x = view_phases(ty, tx, sigma, k, kx, H, W)
    # A loop, for both halves at once do not fit into the registers.
    for half in tl.range(0, 2, num_stages=1):  # pyright: ignore[reportGeneralTypeIssues]
        # i (turned_r + i turned_i) is subtracted for S[k] and added for S[-k]: conj(i) = -i.
        sign = 1 - 2 * half
        grad_r, grad_i = total_r + sign * turned_i, total_i - sign * turned_r
        fcos, fsin, at, keep = spectrum_factor(
            envelope_ptr,
            k,
            kx,
            cos_y,
            sin_y,
            cos_x,
            sin_x,
            zy,
            zx,
            sigma,
            sign,
            H,
            W,
            ROWS,
            COLUMNS,
            ANTIALIAS,
        )
        grad_r, grad_i = fcos * grad_r + fsin * grad_i, fcos * grad_i - fsin * grad_r
        if PHASE:
            # d/dphi of m e^{i phi} is i m e^{i phi}.
            phase = tl.load(spectrum_ptr + moved + at, mask=keep, other=0.0)
            cos, sin = polar(tl.load(magnitude_ptr + at, mask=keep, other=0.0), phase)
            grad_r = cos * grad_i - sin * grad_r
        store_update(
            grad_r, moved + at, keep, target_ptr, exp_avg_ptr, exp_avg_sq_ptr,
            rate, correction, rest1, beta2, rest2, eps, ADAM,
        )  # fmt: skip
        if not PHASE:
            store_update(
                grad_i, moved + PLANE + at, keep, target_ptr, exp_avg_ptr, exp_avg_sq_ptr,
                rate, correction, rest1, beta2, rest2, eps, ADAM,
            )  # fmt: skip
