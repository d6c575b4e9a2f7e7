"""What the kernels' instructions, banks and bytes cost on a GPU, counted without one.

Every kernel of a step is compiled for one architecture and a few of its programs are run in the emulator. Their
instructions are counted in the machine code that ptxas made of them, each loop as often as the emulator went round;
shared-memory cycles from the addresses of the lanes; bytes from what was read and written. A time is that of one
resource, were it alone: no latency, no waves, no caches. The largest binds from below.
"""

from __future__ import annotations

import argparse
import json
import re
from collections import Counter
from dataclasses import dataclass
from typing import Any

import numpy as np

from bench.ptx.compiling import compile_to_ptx
from bench.ptx.ptxrun import Kernel, Memory
from bench.ptx.sass import MachineCode
from bench.report import table
from bench.resources import compile_launch, launches, read_resources

KERNELS = ("columns", "rows", "rows_adjoint", "columns_adjoint")


@dataclass(frozen=True)
class Card:
    """What one card's parts do in a second or a cycle: whitepapers and CUDA's tables by compute capability."""

    name: str
    processors: int
    clock: float  # Hz, under load
    dram: float  # bytes a second, as a copy reaches them
    l2: float  # bytes a second
    fma: int  # float32 products a cycle and processor
    tensor: int  # float16 products a cycle and processor, with mma.sync
    wgmma: int  # the same, with wgmma
    shared: int  # bytes of shared memory a processor
    threads: int  # resident a processor


CARDS = {
    80: Card("A100", 108, 1.41e9, 1.75e12, 4.5e12, 64, 1024, 1024, 164 << 10, 2048),
    89: Card("RTX 4090", 128, 2.5e9, 0.92e12, 5.0e12, 128, 512, 512, 100 << 10, 1536),
    90: Card("H100", 132, 1.75e9, 3.0e12, 5.5e12, 128, 1024, 2048, 228 << 10, 2048),
    120: Card("RTX 5090", 170, 2.4e9, 1.65e12, 6.0e12, 128, 512, 512, 100 << 10, 1536),
}


def representatives(count: int) -> dict[int, int]:
    """First, middle and last of `count` tiles, and how many tiles each stands for."""
    if count <= 3:
        return dict.fromkeys(range(count), 1)
    return {0: 1, count // 2: count - 2, count - 1: 1}


def tile_grid(launch) -> tuple[int, int]:
    """The two dimensions of tiles that a launch folds into its grid's first: program a * second + b."""
    c, programs = launch.constants, launch.grid[0]
    inner = {
        "columns": (c.get("KP", 0), c.get("BK", 1)),
        "rows": ((c.get("RW", 0) + 1) // 2, c.get("BJ", 1)),
        "rows_adjoint": (c.get("KP", 0), c.get("BK", 1)),
        "columns_adjoint": (c.get("COLUMNS", 0), c.get("BK", 1)),
    }
    size, block = inner.get(launch.kernel.__name__, (0, 1))
    second = -(-size // block)
    if not second or programs % second:
        raise ValueError(f"{launch.kernel.__name__}: {programs} programs are no tiles of {second} a row.")
    return programs // second, second


def programs_of_an_image(launch, batch: int, every: bool) -> dict[tuple[int, int, int], int]:
    """The programs to run, and how many of one image's each stands for. Channels are alike."""
    alike = launch.grid[1] // batch
    if every:
        return {(x, 0, 0): alike for x in range(launch.grid[0])}
    first, second = tile_grid(launch)
    return {
        (a * second + b, 0, 0): alike * how_many * of_these
        for a, how_many in representatives(first).items()
        for b, of_these in representatives(second).items()
    }


class Operands:
    """A launch's tensors in emulated memory: of what lies image by image, the first image."""

    def __init__(self, launch, batch: int):
        import torch

        self.memory, self.parameters = Memory(), []
        self.per_image: dict[str, int] = {}
        random, at = np.random.default_rng(0), {}
        for n, value in enumerate(launch.arguments):
            if not isinstance(value, torch.Tensor):
                if not (isinstance(value, int) and value == 1):  # triton compiles a 1 into the kernel
                    self.parameters.append(value)
                continue
            if id(value) not in at:
                name = f"{n}:{launch.kernel.arg_names[n]}"
                array = self.values(value, batch, random)
                at[id(value)] = self.memory.add(name, array, "inout")
                if value.shape[0] == batch and value.dim() > 2:
                    self.per_image[name] = array.nbytes
            self.parameters.append(at[id(value)])

    @staticmethod
    def values(tensor, batch: int, random: np.random.Generator) -> np.ndarray:
        import torch

        if tensor.dtype == torch.int32:
            return np.zeros(tensor.numel(), np.int32)
        if tensor.dim() == 3 and tensor.shape[2] == 5:  # views: shift, zoom, shear
            one = np.array([3.2, -5.7, 1.05, 0.95, 0.1], np.float32)
            return np.broadcast_to(one, tensor.shape).copy()
        count = tensor.numel() // (batch if tensor.shape[0] == batch and tensor.dim() > 2 else 1)
        kind = {torch.float32: np.float32, torch.float16: np.float16}[tensor.dtype]
        return random.uniform(0.1, 0.9, count).astype(kind)


def measure(launch, arch: int, every: bool = False) -> dict[str, Any]:
    """The figures of one launch: counts of an image, and the microseconds that each takes."""
    batch = launch.grid[1] // (3 if launch.kernel.__name__.startswith("columns") else 1)
    compiled = compile_launch(launch, arch)
    operands = Operands(launch, batch)
    weights = programs_of_an_image(launch, batch, every)
    kernel = Kernel(compiled.asm["ptx"], compiled.metadata.shared, arch=arch, measure=True)
    issues, traffic = np.zeros(len(kernel.module.code)), Counter()
    for program, weight in weights.items():
        kernel.issues[:] = 0
        kernel.traffic.clear()
        kernel.launch(operands.memory, launch.grid, [*operands.parameters, 0, 0], [program])
        issues += weight * kernel.issues
        for key, count in kernel.traffic.items():
            traffic[key] += weight * count
    programs = sum(weights.values())
    resources = read_resources(compiled)
    code = MachineCode.of(compiled.asm["cubin"])
    # Trips of each PTX loop: how often a warp issued its first instruction.
    trips = []
    for at, i in enumerate(kernel.module.code):
        if i.parts[0] == "bra" and (start := kernel.module.labels[i.operands[0]]) <= at:
            trips.append((start, at, issues[start] / (programs * kernel.warps)))
    pipes = code.issued(trips)
    products = {"mma.sync": 0.0, "wgmma": 0.0}
    for n, i in enumerate(kernel.module.code):
        if i.op.startswith("mma.sync"):
            products["mma.sync"] += issues[n] * 16 * 8 * 16
        elif i.op.startswith("wgmma.mma"):
            shape = re.search(r"m64n(\d+)", i.op)
            assert shape
            products["wgmma"] += issues[n] / 4 * 64 * int(shape[1]) * 16
    cycles = sum(v for key, v in traffic.items() if key.endswith(" cycles"))
    free = sum(v for key, v in traffic.items() if key.endswith("conflict-free"))
    by_matrix = traffic["wgmma shared bytes"] / 128
    moved = 0
    for a in operands.memory.allocations:
        moved += operands.per_image.get(a.name, 0) * (a.was_read + a.was_written)
    card = CARDS[arch]
    lanes = programs * kernel.warps * 32
    second = {"dram": moved / card.dram, "l2": 32 * (traffic["ld.global sectors"] + traffic["st.global sectors"]) / card.l2}
    cycle = {"shared": cycles + by_matrix, "shared without conflicts": free + by_matrix}
    cycle["tensor"] = products["mma.sync"] / card.tensor + products["wgmma"] / card.wgmma
    if pipes is not None:
        cycle["issue"] = sum(pipes.values()) * lanes / 32 / 4
        cycle["fma"] = (pipes["fma"] + pipes["imad.mov"] + pipes["imad"] * card.fma / 64) * lanes / card.fma
        cycle["alu"] = pipes["alu"] * lanes / 64
        cycle["xu"] = pipes["xu"] * lanes / 16
    second |= {key: value / card.processors / card.clock for key, value in cycle.items()}
    microseconds = {key: value * 1e6 for key, value in second.items()}
    bounds = {key: value for key, value in microseconds.items() if key != "shared without conflicts"}
    registers = -(-resources["registers"] // 8) * 8 * 32 * kernel.warps
    resident = min(65536 // registers, card.shared // (kernel.shared_size + 1024), card.threads // kernel.threads)
    return {
        "kernel": launch.kernel.__name__, "tile": {k: v for k, v in launch.constants.items() if k in ("BI", "BJ", "BK", "BR", "num_warps", "num_stages")},
        "programs": programs, "run": len(weights),
        "registers": resources["registers"], "spills": resources["spills"], "stack": resources["stack"],
        "shared_bytes": kernel.shared_size, "programs_an_sm": resident,
        "loops": [trip for _, _, trip in sorted(trips)], "loops_matched": pipes is not None,
        "pipes_a_warp": {} if pipes is None else {key: round(value) for key, value in pipes.most_common()},
        "ptx_warp_instructions": round(issues.sum()), "traffic": dict(sorted(traffic.items())),
        "dram_bytes": moved, "us": microseconds, "binding": max(bounds, key=lambda key: bounds[key]),
        "findings": sorted({key[0] for key in kernel.findings if not key[0].startswith("register read")}),
    }


COLUMNS = ("issue", "fma", "alu", "xu", "tensor", "shared", "dram", "l2")


def row(figures: dict[str, Any]) -> list[str]:
    us, out = figures["us"], []
    for name in COLUMNS:
        text = f"{us[name]:.2f}" if name in us else "?"
        text = f"**{text}**" if name == figures["binding"] else text
        out.append(text + (f" ({us['shared without conflicts']:.2f})" if name == "shared" else ""))
    which = [figures["kernel"], figures["precision"]]
    counts = [figures[key] for key in ("programs", "registers", "spills", "programs_an_sm")]
    return [*which, *map(str, counts), *out, figures["binding"]]


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser("python -m bench.ptx cost", description=__doc__)
    parser.add_argument("--arch", type=int, default=90, choices=CARDS)
    parser.add_argument("--size", type=int, default=224)
    parser.add_argument("--precision", nargs="+", default=["fast", "exact"], choices=("fast", "exact"))
    parser.add_argument("--kernel", nargs="+", default=KERNELS, choices=KERNELS)
    parser.add_argument("--tiles", default="{}", help="JSON: other tiles, kernel by kernel")
    parser.add_argument("--every", action="store_true", help="run every program of a channel, not first, middle, last")
    parser.add_argument("--json", default="", help="a file for all figures")
    o = parser.parse_args(arguments)
    from fvfast_kernels.launch import Tile

    tiles = {}
    for name, given in json.loads(o.tiles).items():
        blocks = {key: value for key, value in given.items() if key not in ("num_warps", "num_stages")}
        tiles[name] = Tile(blocks, **{key: given[key] for key in ("num_warps", "num_stages") if key in given})
    everything = []
    for precision in o.precision:
        for launch in launches(o.size, precision, "nhwc4", True, tiles):
            if launch.kernel.__name__ not in o.kernel:
                continue
            everything.append({"precision": precision, **measure(launch, o.arch, o.every)})
    heads = ["kernel", "precision", "programs", "registers", "spills", "programs an SM", *COLUMNS, "binding"]
    print(table(heads, [row(figures) for figures in everything]))
    for precision in o.precision:
        bound = sum(f["us"][f["binding"]] for f in everything if f["precision"] == precision)
        dram = sum(f["us"]["dram"] for f in everything if f["precision"] == precision)
        print(f"\n{precision}: {bound:.2f} us an image by the binding resources, {dram:.2f} by DRAM bytes alone")
    if o.json:
        with open(o.json, "w") as file:
            json.dump(everything, file, indent=1)
    return 0
