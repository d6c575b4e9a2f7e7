"""PTX's types as numpy's, and the arithmetic that takes more than one numpy operator.

Arguments and results have the types of the instruction; every array has one value for each thread.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

Values = NDArray[Any]
U8, U16, U32, U64 = np.uint8, np.uint16, np.uint32, np.uint64
# How a register of so many bits is kept.
STORAGE: dict[int, type] = {1: np.bool_, 8: U8, 16: U16, 32: U32, 64: U64}
DTYPES: dict[str, type] = {
    "pred": np.bool_, "b8": U8, "u8": U8, "s8": np.int8, "b16": U16, "u16": U16, "s16": np.int16, "f16": np.float16,
    "bf16": U16, "b32": U32, "u32": U32, "s32": np.int32, "f32": np.float32, "f16x2": U32,
    "b64": U64, "u64": U64, "s64": np.int64, "f64": np.float64, "f32x2": U64,
}  # fmt: skip
# What a register holds before it is written: large and finite, so that a maximum keeps it.
POISON: dict[type, int] = {np.bool_: 0, U8: 0xA5, U16: 0x7E5A, U32: 0x7F05A5A5, U64: 0x7F05A5A5A5A5A5A5}


def bits(kind: str) -> int:
    """The width of a type by its name: 1 for `pred`, 32 for `f32` and `f16x2`."""
    if kind not in DTYPES:
        raise NotImplementedError(f"the type {kind}")
    return 1 if kind == "pred" else 8 * DTYPES[kind]().itemsize


def fma32(a: Values, b: Values, c: Values) -> Values:
    """a b + c with one rounding (the product of two float32 is exact in float64)."""
    return (a.astype(np.float64) * b + c).astype(np.float32)


def to_bfloat(x: Values) -> Values:
    """The upper half of a float32, rounded to nearest even; NaN stays NaN."""
    u = x.view(U32)
    rounded = ((u + U32(0x7FFF) + ((u >> U32(16)) & U32(1))) >> U32(16)).astype(U16)
    return np.where(np.isnan(x), U16(0x7FFF), rounded)


def from_bfloat(x: Values) -> Values:
    return (x.astype(U32) << U32(16)).view(np.float32)


def flush(x: Values) -> Values:
    """Subnormal float32 to zero, sign kept."""
    return np.where(np.abs(x) < np.float32(2.0**-126), np.copysign(np.float32(0), x), x)


def to_integer(x: Values, kind: type) -> Values:
    """A float of whole value to an integer of up to 32 bits, saturated; NaN gives 0."""
    limits = np.iinfo(kind)
    if limits.bits > 32:
        raise NotImplementedError("conversion of a float to a 64-bit integer")
    wide = np.nan_to_num(np.trunc(x.astype(np.float64)), nan=0.0)
    return np.clip(wide, limits.min, limits.max).astype(kind)


def shift_left(a: Values, n: Values) -> Values:
    width = a.dtype.itemsize * 8
    return np.where(n < width, a << (n & U32(width - 1)).astype(a.dtype), a.dtype.type(0))


def shift_right(a: Values, n: Values) -> Values:
    """Arithmetic for signed a, logical for unsigned; by the width or more gives the sign, or 0."""
    width = a.dtype.itemsize * 8
    if a.dtype.kind == "i":
        return a >> np.minimum(n, U32(width - 1)).astype(a.dtype)
    return np.where(n < width, a >> (n & U32(width - 1)).astype(a.dtype), a.dtype.type(0))


def extract(a: Values, position: Values, length: Values) -> Values:
    """bfe of 32 bits; of a signed a, the field's top bit (or bit 31) is repeated above it."""
    position, length = (position & U32(255)).astype(np.int64), (length & U32(255)).astype(np.int64)
    raw = a.astype(np.int64) & 0xFFFFFFFF
    field = (raw >> np.minimum(position, 63)) & ((np.int64(1) << np.minimum(length, 62)) - 1)
    if a.dtype.kind == "i":
        top = np.minimum(position + length - 1, 31)
        sign = ((raw >> np.minimum(top, 63)) & 1).astype(bool) & (length > 0)
        kept = np.clip(np.minimum(length, 32 - position), 0, 62)
        field = np.where(sign, field | (np.int64(-1) << kept), field)
    return (field & 0xFFFFFFFF).astype(U32).view(a.dtype)


def multiply_high(a: Values, b: Values) -> Values:
    """The upper half of a product of up to 32 bits a factor."""
    width = a.dtype.itemsize * 8
    if width > 32:
        raise NotImplementedError("the upper half of a 64-bit product")
    wide = np.int64 if a.dtype.kind == "i" else U64
    return ((a.astype(wide) * b.astype(wide)) >> wide(width)).astype(a.dtype)


def divide(a: Values, b: Values) -> Values:
    """Integer division towards zero; by zero gives all ones, as the hardware's does."""
    quotient = np.abs(a.astype(np.float64)) // np.maximum(np.abs(b.astype(np.float64)), 1)
    if a.dtype.itemsize > 4:
        raise NotImplementedError("division of 64-bit integers")
    signed = quotient * np.sign(a.astype(np.float64)) * np.sign(b.astype(np.float64))
    whole = signed.astype(np.int64).astype(a.dtype)
    return np.where(b == 0, a.dtype.type(-1) if a.dtype.kind == "i" else ~a.dtype.type(0), whole)


def remainder(a: Values, b: Values) -> Values:
    return a - divide(a, b) * b


def permute(a: Values, b: Values, selector: Values) -> Values:
    """prmt in its default mode: each byte of the result is one of a's (0-3) or b's (4-7), or its sign bit repeated."""
    source = np.stack((a.view(U32), b.view(U32)), 1).view(U8)
    out = np.zeros((a.size, 4), U8)
    thread = np.arange(a.size)
    for n in range(4):
        nibble = (selector.view(U32) >> U32(4 * n)) & U32(15)
        byte = source[thread, (nibble & U32(7)).astype(np.int64)]
        sign = np.where(byte >> U8(7) != 0, U8(255), U8(0))
        out[:, n] = np.where(nibble & U32(8), sign, byte)
    return out.view(U32)[:, 0]


def logic3(a: Values, b: Values, c: Values, table: int) -> Values:
    """lop3: any function of three bits, as its truth table of eight."""
    out = np.zeros_like(a)
    for n in range(8):
        if table >> n & 1:
            out |= (a if n & 4 else ~a) & (b if n & 2 else ~b) & (c if n & 1 else ~c)
    return out


def funnel(low: Values, high: Values, n: Values, left: bool, wrap: bool) -> Values:
    """shf: 32 of the 64 bits of high:low, shifted by n modulo 32 (wrap) or at most 32 (clamp)."""
    pair = (high.astype(U64) << U64(32)) | low.astype(U64)
    count = (n & U32(31) if wrap else np.minimum(n, U32(32))).astype(U64)
    return (((pair << count) >> U64(32)) if left else (pair >> count)).astype(U32)


def pair(x: Values, kind: type) -> Values:
    """The two float16 of each 32-bit word, or float32 of each 64-bit one: [threads, 2]."""
    return np.ascontiguousarray(x).view(kind).reshape(-1, 2)


def word(pairs: Values) -> Values:
    """The inverse of `pair`."""
    return np.ascontiguousarray(pairs).view(STORAGE[16 * pairs.dtype.itemsize]).reshape(-1)


def fma16(a: Values, b: Values, c: Values) -> Values:
    """a b + c in float16 with one rounding (exact in float64 before it, but for sums over 53 bits)."""
    return (a.astype(np.float64) * b.astype(np.float64) + c.astype(np.float64)).astype(np.float16)
