"""What the kernels' instructions, bank cycles and bytes cost on a GPU, counted without one.

Every kernel of a step is compiled for one architecture, and some of its programs are run in the emulator: the first,
middle and last of each dimension of tiles, each counted for those that it stands for. Instructions are counted in the
machine code that ptxas made, each loop as often as the emulator went round; bank cycles come from the addresses of the
lanes, bytes from what was read and written. A time is that of one resource, were it alone: no latency, no waves, no
caches. The largest of them bounds the kernel from below. "shared" has its time without bank conflicts in brackets; "l2"
counts every sector that a warp asks for, of which caches keep some away.
"""

from __future__ import annotations

import argparse
import json
import re
from collections import Counter
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from bench.ptx.cards import CARDS, Card
from bench.ptx.machine import Kernel
from bench.ptx.one_image import Operands, programs
from bench.ptx.program import Program
from bench.ptx.sass import MachineCode
from bench.ptx.traffic import Traffic
from bench.report import table
from bench.resources import BATCH, compile_launch, launches, read_resources

_ALONE = ("warp", "warp_adjoint", "adam")  # kernels that are no part of a step of synthesis
RESOURCES = ("issue", "fma", "alu", "xu", "tensor", "shared", "dram", "l2")
_BLOCKS, _OPTIONS = ("BI", "BJ", "BR", "BK"), ("num_warps", "num_stages")


@dataclass
class Counts:
    """What the programs of one image do.

    Attributes:
        programs: of an image; run: those of them that were run.
        issues: warp instructions, by PTX instruction.
        moved: bytes that have to move between DRAM and the processors.
        findings: kinds of violations.
    """

    programs: int
    run: int
    issues: np.ndarray
    traffic: Traffic
    moved: int
    findings: list[str]

    @classmethod
    def of(cls, kernel: Kernel, launch: Any, every: bool) -> Counts:
        """Runs a kernel that was made with measure=True."""
        operands, weights = Operands(launch, BATCH), programs(launch, BATCH, every)
        issues, traffic = np.zeros(len(kernel.program.code)), Traffic()
        for place, weight in weights.items():
            kernel.issues[:] = 0
            kernel.traffic = Traffic()
            kernel.launch(operands.memory, launch.grid, operands.parameters, [place])
            issues += weight * kernel.issues
            for key, count in kernel.traffic.items():
                traffic[key] += weight * count
        return cls(sum(weights.values()), len(weights), issues, traffic, operands.moved(), kernel.findings.kinds())

    def trips(self, program: Program) -> list[tuple[int, int, float]]:
        """Each loop, and how often a warp ran its first instruction."""
        return [(first, last, self.issues[first] / self.programs / program.warps) for first, last in program.loops()]

    def products(self, program: Program) -> dict[str, float]:
        """Float16 products by instruction."""
        out = {"mma.sync": 0.0, "wgmma": 0.0}
        for count, i in zip(self.issues, program.code, strict=True):
            if match := re.match(r"(mma\.sync|wgmma)\.\D*m(\d+)n(\d+)k(\d+)", i.op):
                warps = 4 if match[1] == "wgmma" else 1
                out[match[1]] += count / warps * int(match[2]) * int(match[3]) * int(match[4])
        return out


@dataclass
class Cost:
    """The figures of one kernel; times in microseconds an image by resource."""

    kernel: str
    precision: str
    tile: dict[str, int]
    programs: int
    programs_run: int
    registers: int
    spills: int
    shared_bytes: int
    programs_a_processor: int
    us: dict[str, float]
    us_shared_without_conflicts: float
    binding: str
    dram_bytes: int
    loops: list[float]  # trips
    machine_instructions: dict[str, float]  # a warp, by pipe; empty if ptxas made other loops than the PTX has
    ptx_instructions: float  # of an image's warps
    traffic: dict[str, int] = field(default_factory=dict)
    findings: list[str] = field(default_factory=list)


def measure(launch: Any, precision: str, arch: int, every: bool = False) -> Cost:
    """Compiles a launch, runs some of its programs, and counts."""
    compiled, card = compile_launch(launch, arch), CARDS[arch]
    kernel = Kernel(compiled.asm["ptx"], compiled.metadata.shared, measure=True)
    counts = Counts.of(kernel, launch, every)
    resources = read_resources(compiled)
    trips = counts.trips(kernel.program)
    pipes = MachineCode.of(compiled.asm["cubin"]).issued(trips)
    us = times(counts, kernel.program, pipes, card)
    free = us.pop("shared without conflicts")
    return Cost(
        launch.kernel.__name__,
        precision,
        {key: launch.constants[key] for key in (*_BLOCKS, *_OPTIONS) if key in launch.constants},
        counts.programs,
        counts.run,
        resources["registers"],
        resources["spills"],
        kernel.shared,
        card.resident(resources["registers"], kernel.shared, kernel.program.warps),
        us,
        free,
        max(us, key=lambda key: us[key]),
        counts.moved,
        [trip for _, _, trip in trips],
        dict(pipes or {}),
        float(counts.issues.sum()),
        dict(sorted(counts.traffic.items())),
        counts.findings,
    )


def times(counts: Counts, program: Program, pipes: Counter[str] | None, card: Card) -> dict[str, float]:
    """Microseconds an image by resource, on a whole card."""
    products, traffic = counts.products(program), counts.traffic
    cycles = {
        "shared": traffic.shared_cycles(),
        "shared without conflicts": traffic.shared_cycles(conflicts=False),
        "tensor": products["mma.sync"] / card.tensor + products["wgmma"] / card.wgmma,
    }
    if pipes is not None:
        warps = counts.programs * program.warps
        cycles["issue"] = sum(pipes.values()) * warps / card.issue
        full_rate = (pipes["fma"] + pipes["imad.mov"]) / card.fma
        cycles["fma"] = (full_rate + pipes["imad"] / card.imad) * warps * 32
        cycles["alu"] = pipes["alu"] / card.alu * warps * 32
        cycles["xu"] = pipes["xu"] / card.xu * warps * 32
    seconds = {key: value / card.processors / card.clock for key, value in cycles.items()}
    seconds["dram"] = counts.moved / card.dram
    seconds["l2"] = 32 * (traffic["ld.global sectors"] + traffic["st.global sectors"]) / card.l2
    return {key: value * 1e6 for key, value in seconds.items()}


def line(cost: Cost) -> list[str]:
    """A row of the table."""
    out = []
    for name in RESOURCES:
        text = f"{cost.us[name]:.2f}" if name in cost.us else "?"
        text = f"**{text}**" if name == cost.binding else text
        out.append(text + (f" ({cost.us_shared_without_conflicts:.2f})" if name == "shared" else ""))
    counts = (cost.programs, cost.registers, cost.spills, cost.programs_a_processor)
    return [f"`{cost.kernel}`", cost.precision, *map(str, counts), *out]


def parse(arguments: list[str] | None) -> argparse.Namespace:
    formatter = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser("python -m bench.ptx cost", description=__doc__, formatter_class=formatter)
    parser.add_argument("--arch", type=int, default=90, choices=CARDS, help="90 for sm_90")
    parser.add_argument("--size", type=int, default=224, help="of canvas and view, pixels")
    parser.add_argument("--precision", nargs="+", default=["fast", "exact"], choices=("fast", "exact"))
    parser.add_argument("--kernel", nargs="+", default=[], metavar="NAME", help="some kernels of a step only")
    parser.add_argument("--tiles", default="{}", metavar="JSON", help='such as {"rows": {"BI": 32, "num_warps": 4}}')
    parser.add_argument("--every", action="store_true", help="run every program of a channel")
    parser.add_argument("--json", default="", metavar="FILE", help="all figures")
    options = parser.parse_args(arguments)
    try:
        options.tiles = json.loads(options.tiles)
        whole = all(isinstance(n, int) and n > 0 for tile in options.tiles.values() for n in tile.values())
    except (ValueError, AttributeError):
        parser.error("--tiles takes a JSON object of objects, one for a kernel")
    if not whole:
        parser.error("--tiles takes whole numbers by name, kernel by kernel")
    if options.size < 16:
        parser.error("--size must be at least 16")
    return options


def step(o: argparse.Namespace, precision: str) -> list[Any]:
    """The launches of a step, with the tiles asked for in place of the table's. ValueError for an unknown name."""
    from fvfast_kernels.blocks import Tile

    plain = {launch.kernel.__name__: launch.constants for launch in launches(o.size, precision, "nhwc4", True)}
    names = [name for name in plain if name not in _ALONE]
    if unknown := {*o.kernel, *o.tiles} - set(names):
        raise ValueError(f"A step has no kernel {', '.join(sorted(unknown))}: it has {', '.join(names)}.")
    tiles = {}
    for name, given in o.tiles.items():
        blocks = {key: value for key, value in plain[name].items() if key in _BLOCKS}
        options = {key: plain[name][key] for key in _OPTIONS}
        if unknown := set(given) - {*blocks, *options}:
            raise ValueError(f"{name} has no {', '.join(sorted(unknown))}: it takes {', '.join([*blocks, *options])}.")
        blocks |= {key: value for key, value in given.items() if key in blocks}
        tiles[name] = Tile(blocks, **(options | {key: value for key, value in given.items() if key in options}))
    wanted = o.kernel or names
    every = launches(o.size, precision, "nhwc4", True, tiles)
    return [launch for launch in every if launch.kernel.__name__ in wanted]


def main(arguments: list[str] | None = None) -> int:
    import triton

    o = parse(arguments)
    costs = [measure(launch, precision, o.arch, o.every) for precision in o.precision for launch in step(o, precision)]
    print(
        f"Microseconds an image on the {CARDS[o.arch].name}, by resource: {o.size} px, triton {triton.__version__}.\n"
    )
    heads = ["kernel", "precision", "programs", "registers", "spills", "programs an SM", *RESOURCES]
    print(table(heads, [line(cost) for cost in costs]))
    print()
    for precision in o.precision:
        mine = [cost for cost in costs if cost.precision == precision]
        bound, dram = sum(cost.us[cost.binding] for cost in mine), sum(cost.us["dram"] for cost in mine)
        print(f"{precision}: {bound:.2f} by the binding resources together, {dram:.2f} by DRAM bytes alone")
    for cost in costs:
        if not cost.machine_instructions:
            print(f"{cost.kernel} {cost.precision}: ptxas made other loops than the PTX has; instructions not counted")
        for finding in cost.findings:
            print(f"{cost.kernel} {cost.precision}: {finding}")
    if o.json:
        with open(o.json, "w") as file:
            json.dump([asdict(cost) for cost in costs], file, indent=1)
    return 0
