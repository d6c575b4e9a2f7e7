"""Synthesis in two kernels: spectrum -> columns -> rows -> view. `adjoint.py` holds the way back.

The mathematics, its names and its order are those of `reference.py`. What differs is only where things live:
the factors and bases are computed in registers by the program that needs them, never stored, and the tensor
between the two products, Y, is the only intermediate: planes [B, 3, 2, Rh, KP] with the columns padded to KP,
a multiple of 8.

A program of a columns kernel serves one channel of one image, a program of a rows kernel all three channels,
because the colour matrix mixes them. Sizes are compile-time constants; the batch and every view parameter are
not.
"""

import triton
import triton.language as tl

from fvfast_kernels.tiles import (
    NYQUIST,
    inside_mask,
    load_basis,
    load_view,
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

# The smallest biased exponent that the scaling handles; anything below 2^-113 counts as zero.
LEAST_EXPONENT = tl.constexpr(14)


# --- Columns: the prologue and the product over the row frequencies.


@triton.jit
def spectrum_factor(
    envelope_ptr, k, kx, cos_y, sin_y, cos_x, sin_x, zy, zx, sigma, sign,
    H: tl.constexpr, W: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr,
    ANTIALIAS: tl.constexpr,
):  # fmt: skip
    """The complex factor of S[sign k], its place in the spectrum, whether it is in play: [BR, BK] each."""
    M: tl.constexpr = W // 2 + 1
    NORM: tl.constexpr = (H * W) ** -0.5
    row = tl.where((sign > 0) | (k == 0), k, H - k)
    own_row = tl.where(sign > 0, 2 * k != H, k != 0)
    keep = (own_row & (k < ROWS))[:, None] & (kx < COLUMNS)[None, :]
    at = row[:, None] * M + kx[None, :]
    scale = tl.load(envelope_ptr + at, mask=keep, other=0.0)
    scale *= tl.where((kx == 0) | (2 * kx == W), NORM, 2.0 * NORM)[None, :]
    if ANTIALIAS:
        x = kx.to(tl.float32) * (1.0 / W)
        y = zy * ((sign * k).to(tl.float32)[:, None] * (1.0 / H) + sigma * x[None, :])
        scale = tl.where((tl.abs(y) <= NYQUIST) & (zx * x <= NYQUIST)[None, :], scale, 0.0)
    cos = cos_y[:, None] * cos_x[None, :] - sign * sin_y[:, None] * sin_x[None, :]
    sin = cos_y[:, None] * sin_x[None, :] + sign * sin_y[:, None] * cos_x[None, :]
    return scale * cos, scale * sin, at, keep


@triton.jit
def load_spectrum(ptr, magnitude_ptr, at, keep, fcos, fsin, PHASE: tl.constexpr, PLANE: tl.constexpr):
    """factor * S: [BR, BK] planes; S from its own planes, or from its phase and a fixed magnitude."""
    real = tl.load(ptr + at, mask=keep, other=0.0)
    if PHASE:
        real, imag = polar(tl.load(magnitude_ptr + at, mask=keep, other=0.0), real)
    else:
        imag = tl.load(ptr + PLANE + at, mask=keep, other=0.0)
    return fcos * real - fsin * imag, fcos * imag + fsin * real


@triton.jit
def columns(
    spectrum_ptr, magnitude_ptr, envelope_ptr, views_ptr, step_ptr, basis_ptr, y_ptr,
    batch, envelope_stride, magnitude_stride,
    H: tl.constexpr, W: tl.constexpr, RH: tl.constexpr,
    ROWS: tl.constexpr, COLUMNS: tl.constexpr, KP: tl.constexpr,
    PI: tl.constexpr, PK: tl.constexpr,
    ANTIALIAS: tl.constexpr, SHEAR: tl.constexpr, PHASE: tl.constexpr,
    TABLE: tl.constexpr, EXACT: tl.constexpr,
    BI: tl.constexpr, BR: tl.constexpr, BK: tl.constexpr,
):  # fmt: skip
    """Y [B, 3, 2, RH, KP] from the spectrum [B, 3, 2, H, M]; a program: BI folded view rows, BK columns."""
    tiles_k: tl.constexpr = (KP + BK - 1) // BK
    image, channel = tl.program_id(1) // 3, tl.program_id(1).to(tl.int64)
    index = tl.program_id(0) // tiles_k * BI + tl.arange(0, BI)
    kx = tl.program_id(0) % tiles_k * BK + tl.arange(0, BK)
    ty, tx, zy, zx, sigma = load_view(views_ptr, step_ptr, image, batch, TABLE)
    PLANE: tl.constexpr = H * (W // 2 + 1)
    spectrum_ptr += channel * (PLANE if PHASE else 2 * PLANE)
    magnitude_ptr += image.to(tl.int64) * magnitude_stride + tl.program_id(1) % 3 * PLANE
    envelope_ptr += image.to(tl.int64) * envelope_stride
    basis_ptr += image.to(tl.int64) * ((4 if EXACT else 2) * PI * PK)

    even_r = tl.zeros((BI, BK), tl.float32)
    even_i = tl.zeros((BI, BK), tl.float32)
    odd_r = tl.zeros((BI, BK), tl.float32)
    odd_i = tl.zeros((BI, BK), tl.float32)
    exponent = tl.full((BK,), LEAST_EXPONENT, tl.int32)
    for start in range(0, ROWS, BR):
        k = start + tl.arange(0, BR)
        cos_y, sin_y, cos_x, sin_x = view_phases(ty, tx, sigma, k, kx, H, W)
        fcos, fsin, at, keep = spectrum_factor(
            envelope_ptr, k, kx, cos_y, sin_y, cos_x, sin_x, zy, zx, sigma, 1, H, W, ROWS, COLUMNS, ANTIALIAS
        )
        positive_r, positive_i = load_spectrum(spectrum_ptr, magnitude_ptr, at, keep, fcos, fsin, PHASE, PLANE)
        fcos, fsin, at, keep = spectrum_factor(
            envelope_ptr, k, kx, cos_y, sin_y, cos_x, sin_x, zy, zx, sigma, -1, H, W, ROWS, COLUMNS, ANTIALIAS
        )
        negative_r, negative_i = load_spectrum(spectrum_ptr, magnitude_ptr, at, keep, fcos, fsin, PHASE, PLANE)
        # e^{i t} a + e^{-i t} b = cos t (a + b) + sin t i (a - b)
        sum_r, sum_i = positive_r + negative_r, positive_i + negative_i
        difference_r, difference_i = negative_i - positive_i, positive_r - negative_r
        peak_r = tl.maximum(tl.abs(sum_r), tl.abs(difference_r))
        peak = tl.maximum(peak_r, tl.maximum(tl.abs(sum_i), tl.abs(difference_i)))
        previous, exponent = exponent, raise_exponent(exponent, tl.max(peak, 0))
        if ROWS > BR:
            keep_scale = rescale(previous, exponent)[None, :]
            even_r, even_i = even_r * keep_scale, even_i * keep_scale
            odd_r, odd_i = odd_r * keep_scale, odd_i * keep_scale
        scale = scale_to_target(exponent)[None, :]
        cos, sin, cos_low, sin_low = load_basis(basis_ptr + index[:, None] * PK + k[None, :], PI * PK, EXACT)
        high, low = split(sum_r * scale, EXACT)
        even_r = product(cos, cos_low, high, low, even_r, EXACT)
        high, low = split(sum_i * scale, EXACT)
        even_i = product(cos, cos_low, high, low, even_i, EXACT)
        high, low = split(difference_r * scale, EXACT)
        odd_r = product(sin, sin_low, high, low, odd_r, EXACT)
        high, low = split(difference_i * scale, EXACT)
        odd_i = product(sin, sin_low, high, low, odd_i, EXACT)

    scale = scale_from_target(exponent)[None, :]
    upper_r, upper_i = (even_r + odd_r) * scale, (even_i + odd_i) * scale
    lower_r, lower_i = (even_r - odd_r) * scale, (even_i - odd_i) * scale
    if SHEAR:
        cos, sin = shear_ramp(zy, sigma, index[:, None], kx[None, :], RH, W)
        upper_r, upper_i = cos * upper_r - sin * upper_i, cos * upper_i + sin * upper_r
        lower_r, lower_i = cos * lower_r + sin * lower_i, cos * lower_i - sin * lower_r
    stored = (index < (RH + 1) // 2)[:, None] & (kx < KP)[None, :]
    upper = y_ptr + channel * (2 * RH * KP) + (RH // 2 + index)[:, None] * KP + kx[None, :]
    lower = y_ptr + channel * (2 * RH * KP) + ((RH - 1) // 2 - index)[:, None] * KP + kx[None, :]
    tl.store(upper, upper_r, mask=stored)
    tl.store(upper + RH * KP, upper_i, mask=stored)
    tl.store(lower, lower_r, mask=stored)
    tl.store(lower + RH * KP, lower_i, mask=stored)


# --- Rows: the product over the column frequencies and the epilogue.


@triton.jit
def load_matrix(ptr):
    """The nine entries of a 3x3 matrix."""
    return (
        tl.load(ptr), tl.load(ptr + 1), tl.load(ptr + 2),
        tl.load(ptr + 3), tl.load(ptr + 4), tl.load(ptr + 5),
        tl.load(ptr + 6), tl.load(ptr + 7), tl.load(ptr + 8),
    )  # fmt: skip


@triton.jit
def sigmoid_of(x):
    return 1.0 / (1.0 + tl.exp(-x))


@triton.jit
def store_view(
    f0, f1, f2, i, j, inside, stored, start, image,
    colour_ptr, mean_ptr, std_ptr, view_ptr, sigmoid_ptr, gain,
    stride_b, stride_c, stride_i, stride_j,
    RH: tl.constexpr, RW: tl.constexpr, HP: tl.constexpr, NHWC4: tl.constexpr, half: tl.constexpr,
):  # fmt: skip
    """The epilogue on one tile [BI, BJ] of the channels of f: colour, sigmoid, normalisation, stores."""
    m00, m01, m02, m10, m11, m12, m20, m21, m22 = load_matrix(colour_ptr)
    s0 = sigmoid_of(gain * (m00 * f0 + m01 * f1 + m02 * f2))
    s1 = sigmoid_of(gain * (m10 * f0 + m11 * f1 + m12 * f2))
    s2 = sigmoid_of(gain * (m20 * f0 + m21 * f1 + m22 * f2))
    # Kept half by half, each from the middle outwards, so that both halves move in whole words.
    index = start + tl.arange(0, f0.shape[1])
    saved = sigmoid_ptr + (image * 6 + half) * (RH * HP) + i[:, None] * HP + index[None, :]
    kept = (i < RH)[:, None] & (index < HP)[None, :]  # padding too: an output without bytes of chance
    tl.store(saved, s0, mask=kept)
    tl.store(saved + 2 * RH * HP, s1, mask=kept)
    tl.store(saved + 4 * RH * HP, s2, mask=kept)
    v0 = tl.where(inside, (s0 - tl.load(mean_ptr)) / tl.load(std_ptr), 0.0)
    v1 = tl.where(inside, (s1 - tl.load(mean_ptr + 1)) / tl.load(std_ptr + 1), 0.0)
    v2 = tl.where(inside, (s2 - tl.load(mean_ptr + 2)) / tl.load(std_ptr + 2), 0.0)
    kind = view_ptr.dtype.element_ty
    if NHWC4:
        # Four channels a pixel, interleaved in registers: a thread stores whole pixels, two at once upwards.
        pixel = tl.join(tl.join(v0.to(kind), v2.to(kind)), tl.join(v1.to(kind), tl.zeros_like(v1).to(kind)))
        BJ: tl.constexpr = f0.shape[1]
        at = (i * (4 * RW))[:, None] + pixel_offsets(start, 1 - 2 * half, BJ, RW)[None, :]
        within = (i < RH)[:, None] & (start * 4 + tl.arange(0, 4 * BJ) < (RW + 1) // 2 * 4)[None, :]
        tl.store(view_ptr + image * (RH * RW * 4) + at, pixel.reshape(f0.shape[0], 4 * BJ), mask=within)
    else:
        at = view_ptr + image * stride_b + i[:, None] * stride_i + j[None, :] * stride_j
        tl.store(at, v0.to(kind), mask=stored)
        tl.store(at + stride_c, v1.to(kind), mask=stored)
        tl.store(at + 2 * stride_c, v2.to(kind), mask=stored)


@triton.jit
def rows(
    y_ptr, views_ptr, step_ptr, basis_ptr, colour_ptr, mean_ptr, std_ptr, view_ptr, sigmoid_ptr, gain, batch,
    stride_b, stride_c, stride_i, stride_j,
    H: tl.constexpr, W: tl.constexpr, RH: tl.constexpr, RW: tl.constexpr,
    COLUMNS: tl.constexpr, KP: tl.constexpr,
    PX: tl.constexpr, PJ: tl.constexpr, HP: tl.constexpr,
    MASK: tl.constexpr, NHWC4: tl.constexpr, TABLE: tl.constexpr, EXACT: tl.constexpr,
    BI: tl.constexpr, BJ: tl.constexpr, BK: tl.constexpr,
):  # fmt: skip
    """The view [B, 3 or 4, RH, RW] and its sigmoid from Y; a program: BI rows, BJ folded columns."""
    tiles_j: tl.constexpr = ((RW + 1) // 2 + BJ - 1) // BJ
    image = tl.program_id(1).to(tl.int64)
    i = tl.program_id(0) // tiles_j * BI + tl.arange(0, BI)
    start_j = tl.program_id(0) % tiles_j * BJ
    index = start_j + tl.arange(0, BJ)
    ty, tx, zy, zx, sigma = load_view(views_ptr, step_ptr, tl.program_id(1), batch, TABLE)
    PLANE: tl.constexpr = RH * KP
    y_ptr += image * (6 * PLANE)
    basis_ptr += image * ((4 if EXACT else 2) * PX * PJ)

    even0 = tl.zeros((BI, BJ), tl.float32)
    even1 = tl.zeros((BI, BJ), tl.float32)
    even2 = tl.zeros((BI, BJ), tl.float32)
    odd0 = tl.zeros((BI, BJ), tl.float32)
    odd1 = tl.zeros((BI, BJ), tl.float32)
    odd2 = tl.zeros((BI, BJ), tl.float32)
    exponent = tl.full((BI,), LEAST_EXPONENT, tl.int32)
    for start in range(0, COLUMNS, BK):
        kx = start + tl.arange(0, BK)
        at = y_ptr + i[:, None] * KP + kx[None, :]
        there = (i < RH)[:, None] & (kx < KP)[None, :]
        real0 = tl.load(at, mask=there, other=0.0).to(tl.float32)
        imag0 = tl.load(at + PLANE, mask=there, other=0.0).to(tl.float32)
        real1 = tl.load(at + 2 * PLANE, mask=there, other=0.0).to(tl.float32)
        imag1 = tl.load(at + 3 * PLANE, mask=there, other=0.0).to(tl.float32)
        real2 = tl.load(at + 4 * PLANE, mask=there, other=0.0).to(tl.float32)
        imag2 = tl.load(at + 5 * PLANE, mask=there, other=0.0).to(tl.float32)
        peak = tl.maximum(tl.maximum(tl.abs(real0), tl.abs(imag0)), tl.maximum(tl.abs(real1), tl.abs(imag1)))
        peak = tl.maximum(peak, tl.maximum(tl.abs(real2), tl.abs(imag2)))
        previous, exponent = exponent, raise_exponent(exponent, tl.max(peak, 1))
        if COLUMNS > BK:
            keep_scale = rescale(previous, exponent)[:, None]
            even0, even1, even2 = even0 * keep_scale, even1 * keep_scale, even2 * keep_scale
            odd0, odd1, odd2 = odd0 * keep_scale, odd1 * keep_scale, odd2 * keep_scale
        scale = scale_to_target(exponent)[:, None]
        cos, minus_sin, cos_low, minus_sin_low = load_basis(
            basis_ptr + kx[:, None] * PJ + index[None, :], PX * PJ, EXACT
        )
        high, low = split(real0 * scale, EXACT)
        even0 = product(high, low, cos, cos_low, even0, EXACT)
        high, low = split(imag0 * scale, EXACT)
        odd0 = product(high, low, minus_sin, minus_sin_low, odd0, EXACT)
        high, low = split(real1 * scale, EXACT)
        even1 = product(high, low, cos, cos_low, even1, EXACT)
        high, low = split(imag1 * scale, EXACT)
        odd1 = product(high, low, minus_sin, minus_sin_low, odd1, EXACT)
        high, low = split(real2 * scale, EXACT)
        even2 = product(high, low, cos, cos_low, even2, EXACT)
        high, low = split(imag2 * scale, EXACT)
        odd2 = product(high, low, minus_sin, minus_sin_low, odd2, EXACT)

    scale = scale_from_target(exponent)[:, None]
    even0, even1, even2 = even0 * scale, even1 * scale, even2 * scale
    odd0, odd1, odd2 = odd0 * scale, odd1 * scale, odd2 * scale
    stored = (i < RH)[:, None] & (index < (RW + 1) // 2)[None, :]
    for half in tl.static_range(2):  # pyright: ignore[reportGeneralTypeIssues]
        j = RW // 2 + index if half == 0 else (RW - 1) // 2 - index
        sign = 1.0 - 2.0 * half
        inside = stored
        if MASK:
            inside = inside_mask(ty, tx, zy, zx, sigma, i, j, H, W, RH, RW)
        store_view(
            even0 + sign * odd0, even1 + sign * odd1, even2 + sign * odd2,
            i, j, inside, stored, start_j, image,
            colour_ptr, mean_ptr, std_ptr, view_ptr, sigmoid_ptr, gain,
            stride_b, stride_c, stride_i, stride_j, RH, RW, HP, NHWC4, tl.constexpr(half),
        )  # fmt: skip
