"""PTX to Python: a straight-line segment of a program becomes a function over the registers of all threads."""

from __future__ import annotations

import re
from collections.abc import Callable

from bench.ptx import arithmetic
from bench.ptx.arithmetic import bits
from bench.ptx.expressions import ARITHMETIC, Expressions, missing, numpy_name
from bench.ptx.program import Instruction, Program, vector

_HELPERS = (
    "np U8 U16 U32 U64 fma32 fma16 pair word flush to_integer to_bfloat from_bfloat shift_left shift_right extract"
    " multiply_high divide remainder permute logic3 funnel"
)
_MMA = re.compile(r"mma\.sync\.aligned\.m16n8k(?:4|8|16)\.row\.col\.f32\.(f16|bf16|tf32)\.\1\.f32$")
_WGMMA = re.compile(r"wgmma\.mma_async\.sync\.aligned\.m64n(\d+)k16\.f32\.f16\.f16$")


class Translator:
    """Functions f(R, K, c, m): registers, constants, running CTA, mask of the active threads (None: all)."""

    def __init__(self, program: Program):
        self._program = program
        self._expressions = Expressions(program)
        self._functions: dict[tuple[int, bool], Callable] = {}
        self._scope = {name: getattr(arithmetic, name) for name in _HELPERS.split()}

    @property
    def constants(self) -> list:
        return self._expressions.constants

    def function(self, segment: int, masked: bool) -> Callable:
        """The function of a segment; `masked` where only some of the threads may be active."""
        key = (segment, masked)
        if key not in self._functions:
            lines = ["def f(R, K, c, m):"]
            for pc in range(self._program.starts[segment], self._program.ends[segment]):
                lines += ["    " + line for line in self._statements(pc, masked)]
            scope = dict(self._scope)
            exec("\n".join([*lines, "    return"]), scope)
            self._functions[key] = scope["f"]
        return self._functions[key]

    def cover(self) -> None:
        """Translates everything once.

        Raises: NotImplementedError, which names the first instruction that is not covered.
        """
        for segment in range(len(self._program.starts)):
            self.function(segment, False)

    def _statements(self, pc: int, masked: bool) -> list[str]:
        i, e = self._program.code[pc], self._expressions
        if i.jumps or i.is_barrier:
            if i.is_barrier and len(i.operands) != 1:
                raise missing(i)  # of some of the threads
            return []  # ends a segment
        mask, lead = "m" if masked else None, []
        if i.guard is not None:
            guard = f"{'~' if i.negated else ''}R[{e.slot(i.guard)}]"
            lead, mask = [f"g = {guard}" + (" & m" if masked else "")], "g"
        return lead + self._body(pc, i, mask)

    def _body(self, pc: int, i: Instruction, mask: str | None) -> list[str]:
        name, o = i.parts[0], i.operands
        if name in ("ld", "st"):
            return self._memory(pc, i, mask)
        if name == "mov" and o[0].startswith("{"):
            return self._unpack(i, mask)
        if name == "mov" and o[1].startswith("{"):
            return self._pack(i, mask)
        if name in ARITHMETIC:
            return [self._expressions.write(o[0], self._expressions.result(i), mask)]
        if name in ("cp", "fence"):
            return self._asynchronous(pc, i, mask)
        if name in ("shfl", "redux", "bar"):
            return self._exchange(pc, i, mask)
        return self._matrix(pc, i, mask)

    def _unpack(self, i: Instruction, mask: str | None) -> list[str]:
        kind, o, e = i.parts[-1], i.operands, self._expressions
        registers = vector(o[0])
        part = bits(kind) // len(registers)
        out = [f"v = np.ascontiguousarray({e.read(o[1], f'u{bits(kind)}')}).view(U{part})"]
        parts = ((register, f"v[{n}::{len(registers)}].copy()") for n, register in enumerate(registers))
        return out + [e.write(register, value, mask) for register, value in parts if register != "_"]

    def _pack(self, i: Instruction, mask: str | None) -> list[str]:
        kind, o, e = i.parts[-1], i.operands, self._expressions
        registers = vector(o[1])
        parts = ", ".join(e.read(register, f"u{bits(kind) // len(registers)}") for register in registers)
        return [e.write(o[0], f"np.stack(({parts}), 1).view(U{bits(kind)})[:, 0]", mask)]

    def _memory(self, pc: int, i: Instruction, mask: str | None) -> list[str]:
        name, kind, o, e = i.parts[0], i.parts[-1], i.operands, self._expressions
        space = i.parts[1].split("::")[0]
        if space == "param":
            slot, width = self._program.registers[o[0]]
            cast = f"np.{'int' if kind[0] == 's' else 'uint'}{width}"
            value = f"c.values['{o[1].strip('[] ')}'].view({numpy_name(kind)}).astype({cast})"
            return [f"R[{slot}] = np.full({self._program.threads}, {value}).view(U{width})"]
        if space not in ("global", "shared") or {"acquire", "release", "relaxed", "volatile", "mmio"} & set(i.parts):
            raise missing(i)
        where = e.address(o[1] if name == "ld" else o[0], "u64" if space == "global" else "u32")
        registers, size = vector(o[0] if name == "ld" else o[1]), bits(kind) // 8
        unit = "memory" if space == "global" else "shared"
        if name == "st":
            values = ", ".join(e.read(register, f"u{8 * size}") for register in registers)
            return [f"c.{unit}.store({pc}, {mask}, {where}, {size}, ({values},))"]
        out = [f"v = c.{unit}.load({pc}, {mask}, {where}, {size}, {len(registers)})"]
        for n, register in enumerate(registers):
            width = self._program.registers[register][1]
            signed = kind[0] == "s" and width != 8 * size
            wide = f".view({numpy_name(kind)}).astype(np.int{width})" if signed else f".astype(U{width})"
            out.append(e.write(register, f"v[{n}]" + ("" if width == 8 * size else wide), mask))
        return out

    def _asynchronous(self, pc: int, i: Instruction, mask: str | None) -> list[str]:
        o, e = i.operands, self._expressions
        if i.op.startswith("cp.async.commit_group"):
            return ["c.shared.commit_copies()"]
        if i.op.startswith(("cp.async.wait_group", "cp.async.wait_all")):
            return [f"c.shared.wait_for_copies({o[0] if o else 0})"]
        if i.op.startswith(("cp.async.ca.shared", "cp.async.cg.shared")):
            filled = e.read(o[3] if len(o) > 3 else o[2], "u32")
            target, source = e.address(o[0], "u32"), e.address(o[1], "u64")
            return [f"c.shared.copy({pc}, {mask}, {target}, {source}, {int(o[2], 0)}, {filled})"]
        if i.op.startswith("fence.proxy.async"):
            return [f"c.matrices.fence_proxy({mask})"]
        raise missing(i)

    def _exchange(self, pc: int, i: Instruction, mask: str | None) -> list[str]:
        o, e = i.operands, self._expressions
        if i.op == "bar.warp.sync" and o == ["-1"]:  # lanes go in step here: only that all of them come is checked
            return [f"c.exchange.whole({pc}, {mask})"]
        if i.op.startswith("shfl.sync.") and "|" not in o[0]:
            words = ", ".join(e.read(x, kind) for x, kind in zip(o[1:], ("b32", "u32", "u32", "u32"), strict=True))
            return [e.write(o[0], f"c.exchange.shuffle({pc}, {mask}, '{i.parts[2]}', {words})", mask)]
        functions = {"min": "minimum", "max": "maximum", "add": "add", "and": "bitwise_and", "or": "bitwise_or"}
        kind = i.parts[-1]
        if i.op.startswith("redux.sync") and len(i.parts) == 4 and i.parts[2] in functions and kind[0] != "f":
            value = f"c.exchange.reduce({pc}, {mask}, np.{functions[i.parts[2]]}, {e.read(o[1], kind)})"
            return [e.write(o[0], value, mask)]
        raise missing(i)

    def _matrix(self, pc: int, i: Instruction, mask: str | None) -> list[str]:
        op, o, e = i.op, i.operands, self._expressions
        if op.startswith("ldmatrix.sync.aligned.m8n8") and i.parts[-1] == "b16":
            names = vector(o[0])
            value = f"{e.address(o[1], 'u32')}, {len(names)}, {'trans' in i.parts}"
            return self._results(names, f"c.matrices.load({pc}, {mask}, {value})", mask)
        if op.startswith("stmatrix.sync.aligned.m8n8") and i.parts[-1] == "b16":
            return [
                f"c.matrices.store({pc}, {mask}, {e.address(o[0], 'u32')}, {self._words(o[1])}, {'trans' in i.parts})"
            ]
        if match := _MMA.match(op):
            a, b, total = (self._words(x) for x in o[1:4])
            value = f"c.matrices.mma({pc}, {mask}, {a}, {b}, {total}, '{match[1]}')"
            return self._results(vector(o[0]), value, mask)
        if match := _WGMMA.match(op):
            return self._warpgroup(pc, i, mask, int(match[1]))
        if op.startswith("wgmma.fence"):
            return []
        if op.startswith("wgmma.commit_group"):
            return ["c.matrices.commit()"]
        if op.startswith("wgmma.wait_group"):
            return [f"c.matrices.wait({int(o[-1])})"]
        raise missing(i)

    def _warpgroup(self, pc: int, i: Instruction, mask: str | None, columns: int) -> list[str]:
        o, e = i.operands, self._expressions
        if o[1].startswith("{"):  # A in registers, which cannot be transposed
            a, transposed_a, scales, transposed_b = self._words(o[1]), False, o[4:6], o[6] != "0"
        else:
            a, transposed_a, scales, transposed_b = e.read(o[1], "u64"), o[6] != "0", o[4:6], o[7] != "0"
        if [int(scale) for scale in scales] != [1, 1]:
            raise missing(i)
        b, accumulate = e.read(o[2], "u64"), e.read(o[3], "pred")
        value = f"{a}, {transposed_a}, {b}, {transposed_b}, {accumulate}, {self._words(o[0])}, {columns}"
        return self._results(vector(o[0]), f"c.matrices.wgmma({pc}, {mask}, {value})", mask)

    def _words(self, operand: str) -> str:
        """A tuple of the registers of `{..}`."""
        return "(" + ", ".join(self._expressions.read(register, "u32") for register in vector(operand)) + ",)"

    def _results(self, registers: list[str], value: str, mask: str | None) -> list[str]:
        return [f"v = {value}"] + [
            self._expressions.write(register, f"v[{n}]", mask) for n, register in enumerate(registers)
        ]
