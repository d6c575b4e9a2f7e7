"""The Adam update as one kernel; as the epilogue of the synthesis' adjoint it is in `adjoint.py`."""

import triton
import triton.language as tl

from fvfast_kernels.tiles import adam_update, one_minus_power


@triton.jit
def adam(
    param_ptr, grad_ptr, exp_avg_ptr, exp_avg_sq_ptr, step_ptr, lr_ptr, lr_stride,
    log_beta1, log_beta2, rest1, beta2, rest2, eps, size,
    BLOCK: tl.constexpr,
):  # fmt: skip
    """In place on param, exp_avg, exp_avg_sq [B, size]; `step` is the number of this update, from 1."""
    image = tl.program_id(1).to(tl.int64)
    entry = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    keep = entry < size
    at = image * size + entry
    step = tl.load(step_ptr).to(tl.float32)
    rate = tl.load(lr_ptr + image * lr_stride) / one_minus_power(log_beta1, step)
    param, exp_avg, exp_avg_sq = adam_update(
        tl.load(param_ptr + at, mask=keep, other=0.0),
        tl.load(grad_ptr + at, mask=keep, other=0.0),
        tl.load(exp_avg_ptr + at, mask=keep, other=0.0),
        tl.load(exp_avg_sq_ptr + at, mask=keep, other=0.0),
        rate, one_minus_power(log_beta2, step), rest1, beta2, rest2, eps,
    )  # fmt: skip
    tl.store(param_ptr + at, param, mask=keep)
    tl.store(exp_avg_ptr + at, exp_avg, mask=keep)
    tl.store(exp_avg_sq_ptr + at, exp_avg_sq, mask=keep)
