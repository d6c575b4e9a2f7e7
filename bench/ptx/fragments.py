"""How the matrices of tensor-core instructions lie in the registers of a warp, and their products.

In a fragment, lane = 4 * group + pair: "Warp Level Matrix Fragment" figures of the PTX manual. Registers have a row of
32 lanes for each active warp: [warps, 32].
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from bench.ptx.arithmetic import U32, from_bfloat


def pick(registers: Sequence[np.ndarray], active: np.ndarray) -> np.ndarray:
    """The active warps of some registers: [warp, register, lane], contiguous."""
    return np.stack([register.reshape(-1, 32)[active] for register in registers], 1)


def elements(words: np.ndarray, kind: str) -> np.ndarray:
    """Registers as the operands they hold, one axis more: two float16 or bfloat16, or one tf32, in float32 or less."""
    if kind == "tf32":
        return (words & U32(0xFFFFE000)).view(np.float32)[..., None]  # the lower 13 bits are not looked at
    if kind == "bf16":
        return from_bfloat(np.ascontiguousarray(words).view(np.uint16)).reshape(*words.shape, 2)
    return np.ascontiguousarray(words).view(np.float16).reshape(*words.shape, 2)


def matrix_a(registers: Sequence[np.ndarray], active: np.ndarray, kind: str = "f16") -> np.ndarray:
    """A: [warp, 16, K] from two registers (row halves) for each K half, of 8 or (tf32) 4 columns."""
    parts = elements(pick(registers, active), kind)  # warp, register, lane, element
    warps, count, _, per = parts.shape
    parts = parts.reshape(warps, count // 2, 2, 8, 4, per)  # warp, column half, row half, group, pair, element
    return parts.transpose(0, 2, 3, 1, 4, 5).reshape(warps, 16, -1)


def matrix_b(registers: Sequence[np.ndarray], active: np.ndarray, kind: str = "f16") -> np.ndarray:
    """B: [warp, K, 8] from one register for each K half."""
    parts = elements(pick(registers, active), kind)
    warps, count, _, per = parts.shape
    return parts.reshape(warps, count, 8, 4, per).transpose(0, 1, 3, 4, 2).reshape(warps, -1, 8)


def matrix_c(registers: Sequence[np.ndarray], active: np.ndarray) -> np.ndarray:
    """C or D in float32: [warp, 16, 8 n] from 4 n registers."""
    values = pick(registers, active).view(np.float32)
    values = values.reshape(len(active), -1, 2, 2, 8, 4)  # warp, block of 8 columns, row half, column, group, pair
    return values.transpose(0, 2, 4, 1, 5, 3).reshape(len(active), 16, -1)


def registers_c(matrix: np.ndarray, active: np.ndarray, warps: int) -> np.ndarray:
    """The inverse of `matrix_c`: [4 n, threads] words, 0 in the other warps."""
    blocks = matrix.shape[2] // 8
    values = matrix.reshape(-1, 2, 8, blocks, 4, 2).transpose(0, 3, 1, 5, 2, 4).reshape(-1, 4 * blocks, 32)
    out = np.zeros((4 * blocks, warps, 32), np.float32)
    out[:, active] = values.transpose(1, 0, 2)
    return out.reshape(4 * blocks, warps * 32).view(U32)


def rounded_product(a: np.ndarray, b: np.ndarray, c: np.ndarray) -> np.ndarray:
    """c + a @ b with one rounding to float32."""
    return (a.astype(np.float64) @ b.astype(np.float64) + c).astype(np.float32)


def truncated_product(a: np.ndarray, b: np.ndarray, c: np.ndarray, step: int) -> np.ndarray:
    """c + a @ b, summed `step` products at a time on a common grid, bits below it cut off.

    So tensor cores have been found to sum (Fasi et al., "Numerical behavior of NVIDIA tensor cores", 2021).
    """
    a, b = a.astype(np.float64), b.astype(np.float64)
    for k in range(0, a.shape[-1], step):
        terms = a[..., :, k : k + step, None] * b[..., None, k : k + step, :]  # [.., M, k, N]
        terms = np.concatenate((terms, c.astype(np.float64)[..., :, None, :]), -2)
        grid = np.ldexp(1.0, np.frexp(np.abs(terms).max(-2))[1] - 25)
        total = (np.trunc(terms / grid[..., None, :]) * grid[..., None, :]).sum(-2)
        unit = np.ldexp(1.0, np.frexp(np.abs(total))[1] - 24)
        c = (np.trunc(total / unit) * unit).astype(np.float32)
    return c
