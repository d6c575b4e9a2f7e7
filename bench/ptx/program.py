"""PTX parsed: one entry function, its registers, parameters, labels and instructions, and its straight-line parts."""

from __future__ import annotations

import re
from dataclasses import dataclass, field

from bench.ptx.arithmetic import bits

SPECIAL = re.compile(r"%(?:n?tid|n?ctaid)\.[xyz]$|%laneid$|%warpid$")


@dataclass(slots=True)
class Instruction:
    """One instruction: `op` with its dots ("mad.lo.s32"), the same in parts, and its operands as written."""

    op: str
    operands: list[str]
    guard: str | None  # the predicate register before it
    negated: bool
    line: int  # of the PTX text
    source: tuple[str, int] | None  # file number and line that the compiler took it from
    parts: list[str] = field(init=False)

    def __post_init__(self) -> None:
        self.parts = self.op.split(".")

    @property
    def jumps(self) -> bool:
        return self.parts[0] in ("bra", "ret", "exit")

    @property
    def is_barrier(self) -> bool:
        """Whether the threads of a CTA wait for one another here."""
        return self.op.startswith(("bar.sync", "barrier.sync"))


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


def vector(operand: str) -> list[str]:
    """The registers of `{%r1, %r2}`; of a single register, itself."""
    return [register.strip() for register in operand.strip("{} ").split(",")]


class Program:
    """One entry function.

    Attributes:
        registers: slot and width in bits of every register, special ones included.
        parameters: name and type, in order.
        labels: the instruction that each stands before.
        starts, ends: the straight-line segments between labels, jumps and barriers (a barrier is one by itself).
        at: the number of the segment that starts at an instruction.
    """

    def __init__(self, text: str):
        self.name, self.threads = "", 0
        self.registers: dict[str, tuple[int, int]] = {}
        self.parameters: list[tuple[str, str]] = []
        self.labels: dict[str, int] = {}
        self.code: list[Instruction] = []
        self.files = {n: path.rsplit("/")[-1] for n, path in re.findall(r'\.file\s+(\d+)\s+"([^"]*)"', text)}
        self._parse(text)
        if not self.code or not self.threads:
            raise ValueError("This PTX holds no entry function with a fixed number of threads (.reqntid).")
        self.warps = self.threads // 32
        self.starts = self._segments()
        self.ends = [*self.starts[1:], len(self.code)]
        self.at = {start: n for n, start in enumerate(self.starts)}

    def _parse(self, text: str) -> None:
        source, pending, inside, depth = None, "", False, 0
        for number, raw in enumerate(text.splitlines(), 1):
            line = raw.split("//")[0].strip()
            if not line:
                continue
            if match := re.match(r"\.loc\s+(\d+)\s+(\d+)", line):
                source = (match[1], int(match[2]))
            elif not inside:
                self._declare(line)
                inside = line == "{" and self.threads > 0
            elif match := re.match(r"\.reg\s+\.(\w+)\s+%(\w+)<(\d+)>", line):
                for n in range(int(match[3])):
                    self.registers[f"%{match[2]}{n}"] = (len(self.registers), bits(match[1]))
            elif line in ("{", "}") and not pending:
                depth += 1 if line == "{" else -1
                if depth < 0:
                    break
            elif line.startswith("."):
                if not line.startswith(".pragma"):
                    raise NotImplementedError(f"the directive {line} at ptx line {number}")
            elif match := re.match(r"(\$?\w+):$", line):
                self.labels[match[1]] = len(self.code)
            else:
                pending += " " + line
                while ";" in pending:
                    one, pending = pending.split(";", 1)
                    self.code.append(self._instruction(one.strip(), number, source))
                pending = pending.strip()

    def _declare(self, line: str) -> None:
        """What stands before the body: the name, the parameters, the number of threads."""
        if match := re.match(r"\.visible\s+\.entry\s+(\w+)\(", line):
            self.name = match[1]
        elif match := re.match(r"\.param\s+\.(\w+)(?:\s+\.\w+(?:\s+\d+)?)*\s+(\w+)", line):
            self.parameters.append((match[2], match[1]))
        elif match := re.match(r"\.reqntid\s+(\d+)", line):
            self.threads = int(match[1])

    def _instruction(self, text: str, line: int, source: tuple[str, int] | None) -> Instruction:
        guard, negated = None, False
        if match := re.match(r"@(!?)(%\w+)\s+(.*)", text, re.S):
            negated, guard, text = bool(match[1]), match[2], match[3]
        op, *rest = text.split(None, 1)
        operands = split_operands(rest[0] if rest else "")
        for name in re.findall(r"%[\w.]+", " ".join(operands)):
            if SPECIAL.match(name) and name not in self.registers:
                self.registers[name] = (len(self.registers), 32)
        return Instruction(op, operands, guard, negated, line, source)

    def _segments(self) -> list[int]:
        starts = {0}
        for pc, i in enumerate(self.code):
            if i.jumps or i.is_barrier:
                starts.add(pc + 1)
            if i.is_barrier:
                starts.add(pc)
            if i.parts[0] == "bra":
                starts.add(self.labels[i.operands[0]])
        return sorted(start for start in starts if start < len(self.code))

    def followers(self, segment: int) -> list[int]:
        """The segments that may come next."""
        i = self.code[self.ends[segment] - 1]
        after = [segment + 1] if segment + 1 < len(self.starts) else []
        if i.parts[0] == "bra":
            target = self.at[self.labels[i.operands[0]]]
            return [target, *after] if i.guard else [target]
        return after if i.guard or not i.jumps else []

    def loops(self) -> list[tuple[int, int]]:
        """First and last instruction of every jump back."""
        jumps = [(self.labels[i.operands[0]], pc) for pc, i in enumerate(self.code) if i.parts[0] == "bra"]
        return [(first, last) for first, last in jumps if first <= last]

    def where(self, pc: int) -> str:
        """An instruction's place in the PTX and in the source that it was compiled from."""
        i = self.code[pc]
        source = f"{self.files.get(i.source[0], '?')}:{i.source[1]}" if i.source else "?"
        return f"ptx line {i.line} ({i.op}), {source}"
