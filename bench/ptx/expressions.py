"""PTX operands and arithmetic as Python expressions over numpy arrays, one value a thread.

In an expression `R` are the registers by slot, kept as unsigned words (predicates as bool), `K` the constants, `c` the
running CTA (`bench.ptx.machine.Run`).
"""

from __future__ import annotations

import re

import numpy as np

from bench.ptx.arithmetic import DTYPES, STORAGE, bits
from bench.ptx.program import Instruction, Program
from bench.ptx.shared_memory import SHARED_BASE

# Of integers and bits; {0}, {1}, .. already have the instruction's type.
_INTEGER = {
    "add": "{0} + {1}", "sub": "{0} - {1}", "mul": "{0} * {1}", "mad": "{0} * {1} + {2}", "neg": "-{0}",
    "abs": "np.abs({0})", "min": "np.minimum({0}, {1})", "max": "np.maximum({0}, {1})", "div": "divide({0}, {1})",
    "rem": "remainder({0}, {1})", "and": "{0} & {1}", "or": "{0} | {1}", "xor": "{0} ^ {1}", "not": "~{0}",
    "shl": "shift_left({0}, {1})", "shr": "shift_right({0}, {1})", "bfe": "extract({0}, {1}, {2})",
    "prmt": "permute({0}, {1}, {2})",
}  # fmt: skip
# Of float32. What the hardware approximates is exact here, or off by up to the documented ulps (`approximate`).
_SINGLE = {
    "add": "{0} + {1}", "sub": "{0} - {1}", "mul": "{0} * {1}", "fma": "fma32({0}, {1}, {2})",
    "mad": "fma32({0}, {1}, {2})", "neg": "-{0}", "abs": "np.abs({0})", "min": "np.fmin({0}, {1})",
    "max": "np.fmax({0}, {1})", "copysign": "np.copysign({1}, {0})",
    "div": "c.approximate({0} / {1}, 2)", "rcp": "c.approximate(np.float32(1) / {0}, 1)",
    "sqrt": "c.approximate(np.sqrt({0}), 1)",
}  # fmt: skip
# Approximations by numpy's functions in float64, and how far off each may be: relative ulps, or absolutely.
_THROUGH_DOUBLE = {
    "ex2": ("np.exp2", "2"), "lg2": ("np.log2", "0, 2.0**-22"), "sin": ("np.sin", "0, 2.0**-20.5"),
    "cos": ("np.cos", "0, 2.0**-20.5"), "rsqrt": ("1 / np.sqrt", "2"),
}  # fmt: skip
_HALF = {
    "add": "{0} + {1}", "sub": "{0} - {1}", "mul": "{0} * {1}", "fma": "fma16({0}, {1}, {2})", "neg": "-{0}",
    "abs": "np.abs({0})", "min": "np.fmin({0}, {1})", "max": "np.fmax({0}, {1})",
}  # fmt: skip
_SINGLE_PAIR = {name: _SINGLE[name] for name in ("add", "sub", "mul", "fma")}
_DOUBLE = {name: _HALF[name] for name in ("add", "sub", "mul", "neg", "abs", "min", "max")} | {"div": "{0} / {1}"}
_COMPARE = {
    "eq": "==", "ne": "!=", "lt": "<", "le": "<=", "gt": ">", "ge": ">=", "lo": "<", "ls": "<=", "hi": ">", "hs": ">=",
}  # fmt: skip
# Comparisons that hold where either side is NaN, by the opposite of each.
_UNORDERED = {"equ": "ne", "neu": "eq", "ltu": "ge", "leu": "gt", "gtu": "le", "geu": "lt"}
_COMBINE = {"and": "&", "or": "|", "xor": "^"}
_ROUND = {"rzi": "np.trunc", "rmi": "np.floor", "rpi": "np.ceil", "rni": "np.rint"}
ARITHMETIC = {*_INTEGER, *_SINGLE, *_THROUGH_DOUBLE, "lop3", "shf", "setp", "selp", "cvt", "mov"}
# What an operation's name may carry besides its type; any other changes the result and is not covered.
_MODIFIERS = {"rn", "ftz", "approx", "full", "lo", "hi", "wide", "NaN"}


def missing(i: Instruction) -> NotImplementedError:
    """What is raised for an instruction that is not covered."""
    return NotImplementedError(f"{i.op} {', '.join(i.operands)} at ptx line {i.line}")


def numpy_name(kind: str) -> str:
    """A type's numpy name, as an expression."""
    return f"np.{DTYPES[kind].__name__}"


class Expressions:
    """Operands and arithmetic of one program; collects the constants that they name."""

    def __init__(self, program: Program):
        self.program = program
        self.constants: list[np.ndarray] = []

    # Operands.

    def slot(self, register: str) -> int:
        return self.program.registers[register][0]

    def read(self, operand: str, kind: str) -> str:
        """An operand in a type; the lower bits of a wider register."""
        if operand in self.program.registers:
            slot, width = self.program.registers[operand]
            if width < bits(kind):
                raise NotImplementedError(f"{operand} of {width} bits read as {kind}")
            if width == bits(kind):
                return f"R[{slot}]" if DTYPES[kind] is STORAGE[width] else f"R[{slot}].view({numpy_name(kind)})"
            return f"R[{slot}].astype(U{bits(kind)}).view({numpy_name(kind)})"
        self.constants.append(self._constant(operand, kind))
        return f"K[{len(self.constants) - 1}]"

    def _constant(self, operand: str, kind: str) -> np.ndarray:
        threads, storage = self.program.threads, STORAGE[bits(kind)]
        if operand == "global_smem":
            return np.full(threads, SHARED_BASE, storage)
        if match := re.match(r"0([fFdD])([0-9a-fA-F]+)$", operand):
            width = np.uint32 if match[1] in "fF" else np.uint64
            return np.full(threads, int(match[2], 16), width).view(DTYPES[kind])
        if not re.match(r"-?\w+$", operand):
            raise NotImplementedError(f"the operand {operand}")
        if kind == "pred":
            return np.full(threads, int(operand, 0) != 0)
        return np.full(threads, int(operand.rstrip("U"), 0) & ((1 << bits(kind)) - 1), storage).view(DTYPES[kind])

    def write(self, register: str, expression: str, mask: str | None) -> str:
        """A statement that stores an expression of any type of the register's width."""
        slot, width = self.program.registers[register]
        value = f"({expression})" + ("" if width == 1 else f".view(U{width})")
        return f"R[{slot}] = {value}" if mask is None else f"R[{slot}] = np.where({mask}, {value}, R[{slot}])"

    def address(self, operand: str, kind: str) -> str:
        """`[%r1+16]` as a sum."""
        match = re.match(r"\[\s*([%\w]+)\s*(?:\+\s*(-?\w+))?\s*\]$", operand)
        if not match:
            raise NotImplementedError(f"the address {operand}")
        base, offset = self.read(match[1], kind), int(match[2] or "0", 0)
        return base if offset == 0 else f"{base} + {self.read(str(offset), kind)}"

    # Instructions with one result.

    def result(self, i: Instruction) -> str:
        """The value of an instruction of ARITHMETIC."""
        name, kind, o = i.parts[0], i.parts[-1], i.operands
        if name == "cvt":
            return self._convert(i)
        if name == "setp":
            return self._compare(i)
        if name == "selp":
            return f"np.where({self.read(o[3], 'pred')}, {self.read(o[1], kind)}, {self.read(o[2], kind)})"
        if name == "lop3":
            words = ", ".join(self.read(x, "b32") for x in o[1:4])
            return f"logic3({words}, {int(o[4], 0)})"
        if name == "shf":
            words = ", ".join(self.read(x, "b32") for x in o[1:4])
            return f"funnel({words}, {i.parts[1] == 'l'}, {i.parts[2] == 'wrap'})"
        if name == "mov":
            return self.read(o[1], kind)
        if not set(i.parts[1:-1]) <= _MODIFIERS:
            raise missing(i)
        return self._floating(i) if kind[0] == "f" else self._integer(i)

    def _integer(self, i: Instruction) -> str:
        name, kind, o = i.parts[0], i.parts[-1], i.operands
        if name not in _INTEGER or kind.startswith("bf16"):
            raise missing(i)
        if "wide" in i.parts:
            wide = f"{kind[0]}{2 * bits(kind)}"
            factors = [f"{self.read(x, kind)}.astype({numpy_name(wide)})" for x in o[1:3]]
            product = " * ".join(factors)
            return product if name == "mul" else f"{product} + {self.read(o[3], wide)}"
        counts = name in ("shl", "shr", "bfe")  # whose further operands are counts
        x = [self.read(operand, "u32" if counts and n else kind) for n, operand in enumerate(o[1:])]
        if "hi" in i.parts:
            high = f"multiply_high({x[0]}, {x[1]})"
            return high if name == "mul" else f"{high} + {x[2]}"
        return _INTEGER[name].format(*x)

    def _floating(self, i: Instruction) -> str:
        name, kind = i.parts[0], i.parts[-1]
        flushed = "ftz" in i.parts
        if kind not in ("f32", "f32x2", "f16", "f16x2", "f64") or (flushed and kind != "f32"):
            raise missing(i)
        x = [self.read(operand, kind) for operand in i.operands[1:]]
        if flushed:
            x = [f"flush({one})" for one in x]
        if kind == "f32" and name in _THROUGH_DOUBLE:
            function, error = _THROUGH_DOUBLE[name]
            out = f"c.approximate(({function}({x[0]}.astype(np.float64))).astype(np.float32), {error})"
        else:
            table = {"f32": _SINGLE, "f32x2": _SINGLE_PAIR, "f16": _HALF, "f16x2": _HALF, "f64": _DOUBLE}[kind]
            if name not in table:
                raise missing(i)
            form = table[name]
            if "NaN" in i.parts:  # a NaN on either side is the result
                form = form.replace("np.fmin", "np.minimum").replace("np.fmax", "np.maximum")
            single = {"f32x2": "np.float32", "f16x2": "np.float16"}.get(kind)
            out = form.format(*(x if single is None else [f"pair({one}, {single})" for one in x]))
            out = out if single is None else f"word({out})"
        return f"flush({out})" if flushed else out

    def _compare(self, i: Instruction) -> str:
        """setp, its result perhaps combined with a predicate."""
        how, kind, o = i.parts[1], i.parts[-1], i.operands
        between = [part for part in i.parts[2:-1] if part != "ftz"]
        if "|" in o[0] or len(between) > 1 or (between and between[0] not in _COMBINE):
            raise missing(i)
        if kind.startswith("bf16") or (kind == "f32" and "ftz" in i.parts) or how not in {*_COMPARE, *_UNORDERED}:
            raise missing(i)
        a, b = self.read(o[1], kind), self.read(o[2], kind)
        if how in _UNORDERED:
            out = f"~({a} {_COMPARE[_UNORDERED[how]]} {b})"
        else:
            out = f"({a} {_COMPARE[how]} {b})"
            if how == "ne" and kind[0] == "f":
                out += f" & ({a} == {a}) & ({b} == {b})"
        if not between:
            return out
        negated = o[3].startswith("!")
        return f"({out}) {_COMBINE[between[0]]} {'~' if negated else ''}{self.read(o[3].lstrip('!'), 'pred')}"

    def _convert(self, i: Instruction) -> str:
        to, source, o = i.parts[-2], i.parts[-1], i.operands
        how = set(i.parts[1:-2])
        if not how <= {"rn", "ftz", "rna", *_ROUND}:
            raise missing(i)
        if to in ("f16x2", "bf16x2"):
            high, low = self.read(o[1], "f32"), self.read(o[2], "f32")
            if how - {"rn"}:
                raise missing(i)
            one = "{}.astype(np.float16)" if to == "f16x2" else "to_bfloat({})"
            return f"np.stack(({one.format(low)}, {one.format(high)}), 1).view(U32)[:, 0]"
        if to == "tf32":
            if how != {"rna"}:
                raise missing(i)
            return f"({self.read(o[1], 'u32')} + U32(0x1000)) & U32(0xFFFFE000)"
        x = self.read(o[1], source)
        if "bf16" in (to, source):
            if {to, source} != {"bf16", "f32"}:
                raise missing(i)
            return f"to_bfloat({x})" if to == "bf16" else f"from_bfloat({x})"
        if "ftz" in how:
            x = f"flush({x})"
        rounding = next((_ROUND[part] for part in i.parts if part in _ROUND), None)
        if to[0] == "f" and source == to:
            if rounding is None:
                raise missing(i)
            return f"{rounding}({x})"
        if to[0] in "us" and source[0] == "f":
            if rounding is None:
                raise missing(i)
            out = f"to_integer({rounding}({x}), {numpy_name(to)})"
        elif rounding is not None or (to[0] == "f" and source != "f16" and "rn" not in how):
            raise missing(i)
        else:
            out = f"{x}.astype({numpy_name(to)})"
        width = self.program.registers[o[0]][1]  # of integers, perhaps wider than the result
        return out if width == bits(to) else f"{out}.astype(np.{'int' if to[0] == 's' else 'uint'}{width})"
