"""What the emulator of ptxrun.py works on: memory, parsed modules, and arithmetic beyond numpy's operators."""

from __future__ import annotations

import re

import numpy as np

U8, U16, U32, U64 = np.uint8, np.uint16, np.uint32, np.uint64
STORAGE = {1: np.bool_, 8: U8, 16: U16, 32: U32, 64: U64}
DTYPES = {
    "pred": np.bool_, "b8": U8, "u8": U8, "s8": np.int8, "b16": U16, "u16": U16, "s16": np.int16, "f16": np.float16, "bf16": U16,
    "b32": U32, "u32": U32, "s32": np.int32, "f32": np.float32,
    "b64": U64, "u64": U64, "s64": np.int64, "f64": np.float64,
}  # fmt: skip
SHORT = {"u8": "U8", "u16": "U16", "u32": "U32", "u64": "U64"}
SHARED_BASE = 1024  # what a kernel without static shared memory sees: the first KiB is the system's
POISON = {np.bool_: False, U8: 0xA5, U16: 0x7E5A, U32: 0x7F05A5A5, U64: 0x7F05A5A5A5A5A5A5}  # large and finite: a maximum keeps it
NEVER = -1


def bits(kind: str) -> int:
    return 1 if kind == "pred" else int(kind.lstrip("bfsu"))


# --- Global memory.


class Allocation:
    """A numpy array (any shape, contiguous) at an address; role "in", "out" or "inout"."""

    def __init__(self, name: str, array: np.ndarray, address: int, role: str):
        assert array.flags.c_contiguous
        self.name, self.array, self.address, self.role, self.size = name, array, address, role, array.nbytes
        self.was_read = self.was_written = False
        padded = -(-self.size // 16) * 16
        self.data = np.zeros(padded, U8)  # emulated bytes; copied back by Memory.fetch
        self.data[: self.size] = array.reshape(-1).view(U8)
        self.words = {1: self.data, 2: self.data.view(U16), 4: self.data.view(U32), 8: self.data.view(U64)}
        self.ready = np.full(padded // 2, role != "out")  # by two bytes: whether they hold anything
        # Who wrote and read them in this launch: thread (cta * 4096 + tid; -2: several of one CTA, -3: of several
        # CTAs) and how many barriers its CTA had passed.
        self.writer, self.write_epoch = np.full((2, padded // 2), NEVER, np.int64)
        self.reader, self.read_epoch = np.full((2, padded // 2), NEVER, np.int64)
        self.reader_cta = np.full(padded // 2, NEVER, np.int64)
        if role == "out":
            self.data[:] = 0xFF  # NaN in every floating-point type

    def new_launch(self) -> None:
        self.writer[:], self.reader[:], self.reader_cta[:] = NEVER, NEVER, NEVER


class Memory:
    """Allocations with wide gaps between them; an address is in at most one."""

    def __init__(self):
        self.allocations: list[Allocation] = []
        self.next = 0x7F10_0000_0000

    def add(self, name: str, array: np.ndarray, role: str = "in") -> int:
        allocation = Allocation(name, array, self.next, role)
        self.allocations.append(allocation)
        self.next += (allocation.size + 0x10_0000) // 0x10_0000 * 0x10_0000 + 0x10_0000
        self.starts = np.array([a.address for a in self.allocations], U64)
        return allocation.address

    def fetch(self) -> None:
        """Copy what the kernels wrote back into the arrays."""
        for a in self.allocations:
            if a.role != "in":
                a.array.reshape(-1).view(U8)[:] = a.data[: a.size]

    def resolve(self, address: np.ndarray, size: int):
        """Parts (allocation, which) of active addresses, and which of them lie outside of all allocations."""
        low, high = int(address.min()), int(address.max())
        n = int(np.searchsorted(self.starts, U64(low), "right")) - 1
        if n >= 0 and high + size <= self.allocations[n].address + self.allocations[n].size:
            return [(self.allocations[n], slice(None))], None
        which = np.searchsorted(self.starts, address, "right") - 1
        outside, parts = which < 0, []
        for n in np.unique(which[which >= 0]):
            mine, a = which == n, self.allocations[n]
            fits = mine & (address + U64(size) <= U64(a.address + a.size))
            outside |= mine & ~fits
            if fits.any():
                parts.append((a, fits))
        return parts, outside


# --- Parsing.


class Instruction:
    __slots__ = ("op", "parts", "operands", "guard", "negated", "line", "source")

    def __init__(self, op, operands, guard, negated, line, source):
        self.op, self.parts, self.operands = op, op.split("."), operands
        self.guard, self.negated, self.line, self.source = guard, negated, line, source


def split_operands(text: str) -> list[str]:
    """At commas outside of braces and brackets."""
    out, depth, current = [], 0, ""
    for c in text:
        depth += (c in "{[") - (c in "}]")
        if c == "," and depth == 0:
            out.append(current.strip())
            current = ""
        else:
            current += c
    return [*out, current.strip()] if current.strip() else out


SPECIAL = re.compile(r"%(?:n?tid|n?ctaid)\.[xyz]$|%laneid$|%warpid$")


class Module:
    """One entry function: registers, parameters, labels, instructions."""

    def __init__(self, text: str):
        self.registers: dict[str, tuple[int, int]] = {}  # name -> slot, bits
        self.parameters: list[tuple[str, str]] = []  # name, type
        self.labels: dict[str, int] = {}
        self.code: list[Instruction] = []
        self.files = {n: path.rsplit("/")[-1] for n, path in re.findall(r'\.file\s+(\d+)\s+"([^"]*)"', text)}
        source, pending, inside = "", "", False
        for number, raw in enumerate(text.splitlines(), 1):
            line = raw.split("//")[0].strip()
            if match := re.match(r"\.loc\s+(\d+)\s+(\d+)", line):
                source = (match[1], int(match[2]))
            elif match := re.match(r"\.visible\s+\.entry\s+(\w+)\(", line):
                self.name = match[1]
            elif match := re.match(r"\.param\s+\.(\w+)(?:\s+\.\w+(?:\s+\d+)?)*\s+(\w+)", line):
                self.parameters.append((match[2], match[1]))
            elif match := re.match(r"\.reqntid\s+(\d+)", line):
                self.threads = int(match[1])
            elif match := re.match(r"\.reg\s+\.(\w+)\s+%(\w+)<(\d+)>", line):
                for n in range(int(match[3])):
                    self.registers[f"%{match[2]}{n}"] = (len(self.registers), bits(match[1]))
            elif line == "{" and not inside and hasattr(self, "threads"):
                inside = True
            elif line == "}" and inside and not pending:
                break
            elif not inside or not line or line.startswith("."):
                assert not inside or line.startswith((".loc", ".pragma")) or not line, line
            elif match := re.match(r"(\$?\w+):$", line):
                self.labels[match[1]] = len(self.code)
            else:
                pending += " " + line
                while ";" in pending:
                    one, pending = pending.split(";", 1)
                    self.code.append(self.instruction(one.strip(), number, source))
                pending = pending.strip()

    def instruction(self, text: str, line: int, source) -> Instruction:
        guard, negated = None, False
        if match := re.match(r"@(!?)(%\w+)\s+(.*)", text, re.S):
            negated, guard, text = bool(match[1]), match[2], match[3]
        op, _, rest = text.partition(" ") if " " in text else text.partition("\t")
        op, _, more = op.partition("\t")
        operands = split_operands((more + " " + rest).strip())
        for name in re.findall(r"%[\w.]+", " ".join(operands)):
            if SPECIAL.match(name) and name not in self.registers:
                self.registers[name] = (len(self.registers), 32)
        return Instruction(op, operands, guard, negated, line, source)

    def where(self, pc: int) -> str:
        i = self.code[pc]
        source = f"{self.files.get(i.source[0], '?')}:{i.source[1]}" if i.source else "?"
        return f"ptx line {i.line} ({i.op}), {source}"


# --- Arithmetic that takes more than a numpy operator. Arguments and results have the types of the instruction.


def fma32(a, b, c):
    return (a.astype(np.float64) * b + c).astype(np.float32)


def to_bfloat(x):
    """The upper half of a float32, rounded to nearest even (NaN stays NaN)."""
    u = x.view(U32)
    rounded = ((u + U32(0x7FFF) + ((u >> U32(16)) & U32(1))) >> U32(16)).astype(U16)
    return np.where(np.isnan(x), U16(0x7FFF), rounded)


def from_bfloat(x):
    return (x.astype(U32) << U32(16)).view(np.float32)


def flush(x):
    """Subnormal floats to zero, sign kept."""
    return np.where(np.abs(x) < np.float32(2.0**-126), np.copysign(np.float32(0), x), x)


def to_integer(x, kind):
    """Truncation with saturation; NaN gives 0."""
    low, high = np.iinfo(kind).min, np.iinfo(kind).max
    assert kind(0).itemsize <= 4
    return np.clip(np.nan_to_num(np.trunc(x.astype(np.float64)), nan=0.0), low, high).astype(kind)


def shift_left(a, n):
    width = a.dtype.itemsize * 8
    return np.where(n < width, a << (n & U32(width - 1)).astype(a.dtype), a.dtype.type(0))


def shift_right(a, n):
    width = a.dtype.itemsize * 8
    return a >> np.minimum(n, U32(width - 1)).astype(a.dtype) if a.dtype.kind == "i" else np.where(
        n < width, a >> (n & U32(width - 1)).astype(a.dtype), a.dtype.type(0)
    )


def extract(a, position, length):
    """bfe: bits of a; of a signed a, the field's top bit (or bit 31) is repeated above it."""
    position, length = (position & U32(255)).astype(np.int64), (length & U32(255)).astype(np.int64)
    raw = a.astype(np.int64) & 0xFFFFFFFF
    field = (raw >> np.minimum(position, 63)) & ((np.int64(1) << np.minimum(length, 62)) - 1)
    if a.dtype.kind == "i":
        top = np.minimum(position + length - 1, 31)
        sign = ((raw >> np.minimum(top, 63)) & 1).astype(bool) & (length > 0)
        kept = np.clip(np.minimum(length, 32 - position), 0, 62)
        field = np.where(sign, field | (np.int64(-1) << kept), field)
    return (field & 0xFFFFFFFF).astype(U32).view(a.dtype)


def multiply_high(a, b):
    width = a.dtype.itemsize * 8
    wide = np.int64 if a.dtype.kind == "i" else U64
    assert width <= 32
    return ((a.astype(wide) * b.astype(wide)) >> wide(width)).astype(a.dtype)
