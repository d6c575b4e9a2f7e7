"""Machine code as ptxas wrote it: its instructions, their pipes, and its loops."""

from __future__ import annotations

import re
import subprocess
import tempfile
from collections import Counter
from dataclasses import dataclass

from bench.resources import tool

# The units that issue an instruction, by the first part of its name; what is named nowhere is integer arithmetic,
# comparison or logic ("alu").
_PIPES = {
    "tensor": "HMMA HGMMA",
    "xu": "MUFU FRND F2I I2F F2F",
    "fma": "FFMA FADD FMUL FSWZADD",
    "imad": "IMAD IMUL",
    "lsu": "LDS STS LDSM STSM LDG STG LDGSTS SHFL LDC LDCU ULDC REDUX ST LD ATOMS LDL STL",
    "control": "BRA BAR EXIT BSSY BSYNC WARPSYNC NOP DEPBAR LDGDEPBAR WARPGROUP MEMBAR FENCE ARRIVES CALL RET SYNCS"
    " ERRBAR CCTL BREAK WARPGROUPSET",
}
_PIPE_OF = {name: pipe for pipe, names in _PIPES.items() for name in names.split()}


def pipe(instruction: str) -> str:
    """The unit that an instruction (its whole name, `IMAD.MOV.U32`) occupies."""
    name = instruction.split(".")[0]
    if name == "IMAD" and ".MOV" in instruction:
        return "imad.mov"  # at the full rate of a float32 FMA
    if name in _PIPE_OF:
        return _PIPE_OF[name]
    return "uniform" if name.startswith("U") or name in ("R2UR", "S2UR") else "alu"


@dataclass
class MachineCode:
    """The instructions of one kernel in their order, and its loops as (first, last) instruction."""

    instructions: list[str]
    loops: list[tuple[int, int]]

    @classmethod
    def of(cls, cubin: bytes) -> MachineCode:
        """Disassembles a cubin with triton's own nvdisasm."""
        with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
            file.write(cubin)
            file.flush()
            command = (tool("nvdisasm"), "-c", file.name)
            return cls.parse(subprocess.run(command, capture_output=True, text=True, check=True).stdout)

    @classmethod
    def parse(cls, text: str) -> MachineCode:
        """From nvdisasm's text."""
        instructions: list[str] = []
        jumps: list[tuple[int, str]] = []
        labels: dict[str, int] = {}
        for line in text.splitlines():
            if label := re.match(r"\s*(\.L_x?_?\w+):", line):
                labels[label[1]] = len(instructions)
            elif code := re.match(r"\s*/\*[0-9a-f]+\*/\s+(?:@!?U?P\w+\s+)?([A-Z][\w.]*)(.*?);", line):
                if code[1].startswith("BRA") and (target := re.search(r"\(?(\.L_x?_?\w+)", code[2])):
                    jumps.append((len(instructions), target[1]))
                instructions.append(code[1])
        # A jump to itself is the trap that ends every kernel.
        loops = [(labels[name], at) for at, name in jumps if name in labels and labels[name] < at]
        return cls(instructions, loops)

    def issued(self, trips: list[tuple[int, int, float]]) -> Counter[str] | None:
        """How often a warp issues to each pipe, each loop as often as the PTX loop in its place.

        trips: first and last instruction of each PTX loop, and how often a warp ran its first.
        Returns: None if the loops are not the same number, as when ptxas unrolled one.
        """
        if len(trips) != len(self.loops):
            return None
        times = [1.0] * len(self.instructions)
        pairs = list(zip(sorted(self.loops), sorted(trips), strict=True))
        # The inner loops last: their trips already count those of the loops around them.
        for (first, last), (_, _, trip) in sorted(pairs, key=lambda pair: pair[0][0] - pair[0][1]):
            times[first : last + 1] = [trip] * (last + 1 - first)
        counts: Counter[str] = Counter()
        for instruction, count in zip(self.instructions, times, strict=True):
            counts[pipe(instruction)] += count  # pyright: ignore[reportArgumentType]
        return counts
