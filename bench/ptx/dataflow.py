"""What a program's text alone shows of its registers, before it runs."""

from __future__ import annotations

import re

from bench.ptx.findings import Findings
from bench.ptx.program import SPECIAL, Instruction, Program

_NO_RESULT = ("st", "stmatrix", "bar", "barrier", "bra", "cp", "fence", "ret", "exit")


def uses(program: Program, i: Instruction) -> tuple[set[str], set[str]]:
    """The registers that an instruction reads and writes."""

    def find(text: str) -> set[str]:
        return {register for register in re.findall(r"%[\w.]+", text) if register in program.registers}

    if not i.operands:
        return set(), set()
    no_result = i.parts[0] in _NO_RESULT or i.op.startswith("wgmma.wait")
    written = set() if no_result else find(i.operands[0])
    read = find(" ".join(i.operands if no_result else i.operands[1:]))
    if i.guard:
        read.add(i.guard)
    if i.op.startswith("wgmma.mma") and i.operands[3] != "0":
        read |= written
    return read, written


def check_registers(program: Program, findings: Findings) -> None:
    """Notes registers that are read on some path before a full write (a predicated write is none)."""
    code, everything = program.code, frozenset(program.registers)
    used = [uses(program, i) for i in code]
    defined_at = dict.fromkeys(range(len(program.starts)), everything)
    defined_at[0], work, reached = frozenset(n for n in everything if SPECIAL.match(n)), [0], {0}
    while work:
        n = work.pop()
        defined = set(defined_at[n])
        for pc in range(program.starts[n], program.ends[n]):
            if code[pc].guard is None:
                defined |= used[pc][1]
        for follower in program.followers(n):
            merged = defined_at[follower] & defined
            if merged != defined_at[follower] or follower not in reached:
                defined_at[follower] = merged
                reached.add(follower)
                work.append(follower)
    for n in sorted(reached):
        defined = set(defined_at[n])
        for pc in range(program.starts[n], program.ends[n]):
            if used[pc][0] - defined:
                findings.note("register read before it is written", pc)
            if code[pc].guard is None:
                defined |= used[pc][1]


def check_products(program: Program, findings: Findings) -> None:
    """wgmma.fence between any access of registers and a product that uses them, none touched before its wait.

    In the order of the text, twice: what the end of a loop touches, its beginning has to fence.
    """
    touched: set[str] = set()
    flight: set[str] = set()
    fenced = False
    for pc, i in [*enumerate(program.code)] * 2:
        read, written = uses(program, i)
        if i.op.startswith("wgmma.fence"):
            touched.clear()
            fenced = True
        elif i.op.startswith("wgmma.mma"):
            inputs = set(re.findall(r"%\w+", i.operands[1])) if i.operands[1].startswith("{") else set()
            entering = inputs | (written - flight)
            if not fenced or entering & touched:
                names = str(sorted(entering & touched)[:4])
                findings.report("register enters a product without wgmma.fence", pc, names)
            flight |= written | inputs
        elif i.op.startswith("wgmma.wait_group"):
            if i.operands[-1] == "0":
                flight.clear()
        elif not i.op.startswith("wgmma"):
            late = written & flight or read & flight
            if late:
                findings.report("register of a product in flight is touched", pc, str(sorted(late)[:4]))
            touched |= read | written
