"""Affine resampling of images, and its adjoint, both as gathers: deterministic, without atomics.

A pixel of the output reads four of the input. Backwards, a pixel of the input looks for the pixels of the
output that read it: under the inverse map they lie in a parallelogram about its own place, and a bounding box
of that is searched. `resample.py` holds the same mathematics in plain PyTorch.
"""

import triton
import triton.language as tl


@triton.jit
def load_matrix(matrix_ptr, image):
    at = matrix_ptr + image * 6
    return (
        tl.load(at), tl.load(at + 1), tl.load(at + 2),
        tl.load(at + 3), tl.load(at + 4), tl.load(at + 5),
    )  # fmt: skip


@triton.jit
def affine_point(a, b, c, i, j, RH: tl.constexpr, RW: tl.constexpr, SIZE: tl.constexpr):
    """One coordinate of where the output pixel (i, j) looks, in input pixels."""
    across = b * (j.to(tl.float32) - (RW - 1) * 0.5) + c
    return a * (i.to(tl.float32) - (RH - 1) * 0.5) + across + (SIZE - 1) * 0.5


@triton.jit
def wrap_index(index, SIZE: tl.constexpr):
    """A whole position modulo the size; the remainder of a negative number may be negative."""
    return ((index % SIZE) + SIZE) % SIZE


@triton.jit
def tap(image_ptr, y, x, c, valid, fill, H: tl.constexpr, W: tl.constexpr, WRAP: tl.constexpr):
    """The input's values at whole positions y, x [N] in channels c [C]: [N, C]."""
    if WRAP:
        y, x = wrap_index(y, H), wrap_index(x, W)
        inside = valid
    else:
        inside = valid & ((y >= 0) & (y < H) & (x >= 0) & (x < W))[:, None]
    at = image_ptr + (y * W + x)[:, None] + c[None, :] * (H * W)
    return tl.load(at, mask=inside, other=fill).to(tl.float32)


@triton.jit
def warp(
    image_ptr, matrix_ptr, out_ptr, fill,
    CHANNELS: tl.constexpr, H: tl.constexpr, W: tl.constexpr, RH: tl.constexpr, RW: tl.constexpr,
    WRAP: tl.constexpr, BLOCK: tl.constexpr, BC: tl.constexpr,
):  # fmt: skip
    """out [B, C, RH, RW] from image [B, C, H, W]; a program: BLOCK pixels of BC channels."""
    image = tl.program_id(1).to(tl.int64)
    pixel = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    c = tl.program_id(2) * BC + tl.arange(0, BC)
    i, j = pixel // RW, pixel % RW
    valid = (pixel < RH * RW)[:, None] & (c < CHANNELS)[None, :]
    m00, m01, m02, m10, m11, m12 = load_matrix(matrix_ptr, image)
    y = affine_point(m00, m01, m02, i, j, RH, RW, H)
    x = affine_point(m10, m11, m12, i, j, RH, RW, W)
    y0, x0 = tl.floor(y), tl.floor(x)
    dy, dx = (y - y0)[:, None], (x - x0)[:, None]
    yi, xi = y0.to(tl.int32), x0.to(tl.int32)
    image_ptr += image * (CHANNELS * H * W)
    top = tap(image_ptr, yi, xi, c, valid, fill, H, W, WRAP) * (1.0 - dx)
    top += tap(image_ptr, yi, xi + 1, c, valid, fill, H, W, WRAP) * dx
    bottom = tap(image_ptr, yi + 1, xi, c, valid, fill, H, W, WRAP) * (1.0 - dx)
    bottom += tap(image_ptr, yi + 1, xi + 1, c, valid, fill, H, W, WRAP) * dx
    at = out_ptr + image * (CHANNELS * RH * RW) + pixel[:, None] + c[None, :] * (RH * RW)
    tl.store(at, top * (1.0 - dy) + bottom * dy, mask=valid)


@triton.jit
def extent(a, b, c, RH: tl.constexpr, RW: tl.constexpr, SIZE: tl.constexpr):
    """First and last copy of the input, in multiples of its size, that the output reads."""
    reach = tl.abs(a) * ((RH - 1) * 0.5) + tl.abs(b) * ((RW - 1) * 0.5)
    middle = c + (SIZE - 1) * 0.5
    first = tl.ceil((middle - reach) * (1.0 / SIZE)) - 1.0
    last = tl.floor((middle + reach + 1.0) * (1.0 / SIZE))
    return first.to(tl.int32), last.to(tl.int32)


@triton.jit
def warp_adjoint(
    grad_ptr, matrix_ptr, out_ptr,
    CHANNELS: tl.constexpr, H: tl.constexpr, W: tl.constexpr, RH: tl.constexpr, RW: tl.constexpr,
    WRAP: tl.constexpr, BLOCK: tl.constexpr, BC: tl.constexpr,
):  # fmt: skip
    """The image's gradient [B, C, H, W] from the output's; a program: BLOCK pixels of BC channels."""
    image = tl.program_id(1).to(tl.int64)
    pixel = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    c = tl.program_id(2) * BC + tl.arange(0, BC)
    valid = (pixel < H * W)[:, None] & (c < CHANNELS)[None, :]
    m00, m01, m02, m10, m11, m12 = load_matrix(matrix_ptr, image)
    inverse = 1.0 / (m00 * m11 - m01 * m10)
    # A step below 1 along either axis of the input is a step below these along the output's.
    reach_i = tl.minimum((tl.abs(m11) + tl.abs(m01)) * tl.abs(inverse), 1.0 * RH)
    reach_j = tl.minimum((tl.abs(m10) + tl.abs(m00)) * tl.abs(inverse), 1.0 * RW)
    steps_i, steps_j = (2.0 * reach_i + 1.01).to(tl.int32), (2.0 * reach_j + 1.01).to(tl.int32)
    first_n, last_n, first_m, last_m = 0, 0, 0, 0
    if WRAP:
        first_n, last_n = extent(m00, m01, m02, RH, RW, H)
        first_m, last_m = extent(m11, m10, m12, RW, RH, W)
    grad_ptr += image * (CHANNELS * RH * RW) + c[None, :] * (RH * RW)

    total = tl.zeros((BLOCK, BC), tl.float32)
    # Loops whose ends are loaded are written as `while`: triton 3.6's interpreter has no `range` of them.
    n = first_n
    while n <= last_n:
        m = first_m
        while m <= last_m:
            y, x = (pixel // W + n * H).to(tl.float32), (pixel % W + m * W).to(tl.float32)
            dy, dx = y - (H - 1) * 0.5 - m02, x - (W - 1) * 0.5 - m12
            middle_i = (m11 * dy - m01 * dx) * inverse + (RH - 1) * 0.5
            middle_j = (m00 * dx - m10 * dy) * inverse + (RW - 1) * 0.5
            near = (middle_i > -reach_i) & (middle_i < RH - 1 + reach_i)
            near = near & (middle_j > -reach_j) & (middle_j < RW - 1 + reach_j)
            reached = tl.max(near.to(tl.int32), 0)
            if reached > 0:  # pyright: ignore[reportOperatorIssue]
                first_i = tl.ceil(middle_i - reach_i - 0.001).to(tl.int32)
                first_j = tl.ceil(middle_j - reach_j - 0.001).to(tl.int32)
                step_i = 0
                while step_i < steps_i:
                    step_j = 0
                    while step_j < steps_j:
                        i, j = first_i + step_i, first_j + step_j
                        # The same expressions as forwards give the same weights, to the last bit.
                        from_y = tl.abs(affine_point(m00, m01, m02, i, j, RH, RW, H) - y)
                        from_x = tl.abs(affine_point(m10, m11, m12, i, j, RH, RW, W) - x)
                        weight = tl.maximum(1.0 - from_y, 0.0) * tl.maximum(1.0 - from_x, 0.0)
                        reads = (i >= 0) & (i < RH) & (j >= 0) & (j < RW) & (weight > 0.0)
                        at = grad_ptr + (i * RW + j)[:, None]
                        grad = tl.load(at, mask=valid & reads[:, None], other=0.0).to(tl.float32)
                        total += weight[:, None] * grad
                        step_j += 1
                    step_i += 1
            m += 1
        n += 1
    at = out_ptr + image * (CHANNELS * H * W) + pixel[:, None] + c[None, :] * (H * W)
    tl.store(at, total, mask=valid)
