"""What every kernel takes of a GPU, read from its machine code; needs triton, but no GPU.

    python -m bench.resources                   a Markdown table over kernels and architectures
    python -m bench.resources --write           the same into docs/kernels.md
    python -m bench.resources --json --size 224 --arch 90

Kernels are compiled exactly as the launchers would call them: same argument types, alignments and constants.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator

from bench.report import keep
from bench.tables import table

ARCHITECTURES = (80, 89, 90, 100, 120)
# Bytes of shared memory that one program may have: CUDA C++ Programming Guide, "Technical Specifications per
# Compute Capability", less the 1 KiB that the system reserves for each block.
SHARED_LIMIT = {80: 163, 89: 99, 90: 227, 100: 227, 120: 99}
BATCH = 64


def launches(size: int, precision: str, layout: str, shear: bool, other_tiles: dict | None = None) -> Iterator:
    """The launches of one step at a square size, on tensors that have shapes and no memory.

    other_tiles: as in `fvfast_kernels.launch.Plan`.
    """
    import torch
    from fvfast_kernels import launch
    from fvfast_kernels.geometry import Epilogue, Geometry

    def empty(*shape: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
        return torch.empty(shape, dtype=dtype, device="meta")

    batch = BATCH
    geometry = Geometry(size, size, size, size)
    epilogue = Epilogue(empty(3, 3), empty(3), empty(3), 0.25)
    spectrum = empty(batch, 3, 2, size, size // 2 + 1)
    envelope, views, step = empty(size, size // 2 + 1), empty(100, batch, 5), empty(1, dtype=torch.int32)
    workspace = launch.Workspace.allocate(batch, geometry, precision, "meta")
    dtype = torch.float16 if layout == "nhwc4" else torch.float32
    view = launch.empty_view(batch, geometry, layout, dtype, torch.device("meta"))
    plan = launch.Plan(geometry, epilogue, precision == "exact", other_tiles)
    source = launch.Source(spectrum, envelope, views, step, shear=shear)
    adam = launch.Adam(torch.empty_like(spectrum), torch.empty_like(spectrum), empty(batch))
    yield from launch.forward_launches(source, view, workspace, plan)
    yield from launch.adjoint_launches(source, view, spectrum, workspace, plan, adam)
    if precision == "exact":  # these know only one
        image, matrix = empty(batch, 3, size, size), empty(batch, 2, 3)
        yield launch.warp_launch(image, matrix, image, "wrap")
        yield launch.warp_adjoint_launch(image, matrix, image, "wrap")
        yield launch.adam_launch(image, image, image, image, step, empty(batch), adam.betas, adam.eps)


def compile_launch(launch, arch: int):
    """The compiled kernel of a launch, specialised as triton specialises it at run time."""
    import torch
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    names = {torch.float32: "*fp32", torch.float16: "*fp16", torch.bfloat16: "*bf16", torch.int32: "*i32"}
    signature, constants, attributes = {}, {}, {}
    for n, name in enumerate(launch.kernel.arg_names):
        if n >= len(launch.arguments):
            signature[name], constants[name] = "constexpr", launch.constants[name]
            continue
        value = launch.arguments[n]
        if isinstance(value, torch.Tensor):
            signature[name], aligned = names[value.dtype], True
        elif isinstance(value, int):
            signature[name], aligned = "i32", value % 16 == 0
            if value == 1:
                signature[name], constants[name], aligned = "constexpr", 1, False
        else:
            signature[name], aligned = "fp32", False
        if aligned:
            attributes[(n,)] = [["tt.divisibility", 16]]
    options = {key: launch.constants[key] for key in ("num_warps", "num_stages")}
    source = ASTSource(launch.kernel, signature, constants, attributes)
    return triton.compile(source, target=GPUTarget("cuda", arch, 32), options=options)


def tool(name: str) -> str:
    """A binary utility that comes with triton."""
    import triton

    directory = os.path.join(os.path.dirname(triton.__file__), "backends", "nvidia", "bin")
    return os.path.join(directory, name)


def read_resources(compiled) -> dict[str, int]:
    """Registers, stack, spills, shared memory, and counts of the instructions that matter."""
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(compiled.asm["cubin"])
        file.flush()
        usage = _run(tool("cuobjdump"), "-res-usage", file.name)
        sass = _run(tool("nvdisasm"), "-c", file.name)
    fields = dict(re.findall(r"(REG|STACK|SHARED|LOCAL):(\d+)", usage))
    return {
        "registers": int(fields["REG"]),
        "stack": int(fields["STACK"]) + int(fields["LOCAL"]),
        "spills": len(re.findall(r"\b(?:LDL|STL)\b", sass)),
        "shared_bytes": compiled.metadata.shared,
        "tensor_core": len(re.findall(r"\b(?:HMMA|HGMMA|QGMMA|UTCHMMA|UTCMMA|OMMA)\b", sass)),
        "loads": len(re.findall(r"\bLDG(?:STS)?\b", sass)),
        "loads_16": len(re.findall(r"\bLDG(?:STS)?\.[\w.]*128", sass)),
        "stores": len(re.findall(r"\bSTG\b", sass)),
        "stores_8": len(re.findall(r"\bSTG\.[\w.]*64", sass)),
        "stores_16": len(re.findall(r"\bSTG\.[\w.]*128", sass)),
    }


def _run(*command: str) -> str:
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def measure(sizes, architectures, precisions, layouts, shear: bool) -> Iterator[dict]:
    for size in sizes:
        for precision in precisions:
            for layout in layouts:
                for launch in launches(size, precision, layout, shear):
                    for arch in architectures:
                        resources = read_resources(compile_launch(launch, arch))
                        name = launch.kernel.__name__
                        case = {"kernel": name, "size": size, "precision": precision, "layout": layout}
                        yield {**case, "arch": arch, "warps": launch.constants["num_warps"], **resources}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", type=int, nargs="+", default=[224])
    parser.add_argument("--arch", type=int, nargs="+", default=ARCHITECTURES)
    parser.add_argument("--precision", nargs="+", default=["fast", "exact"])
    parser.add_argument("--layout", nargs="+", default=["nhwc4"])
    parser.add_argument("--no-shear", action="store_true")
    parser.add_argument("--json", action="store_true", help="one JSON object a line")
    parser.add_argument("--write", action="store_true", help="put the table into docs/kernels.md")
    options = parser.parse_args()
    heads: list[str] = []
    lines: list[list[str]] = []
    for row in measure(options.size, options.arch, options.precision, options.layout, not options.no_shear):
        if options.json:
            print(json.dumps(row), flush=True)
        heads = list(row)
        lines.append([str(value) for value in row.values()])
    heads = [head.replace("_", " ") for head in heads]
    if options.write:
        keep("resources", "python -m bench.resources --write", heads, lines)
    elif not options.json:
        print(table(heads, lines))
    return 0


if __name__ == "__main__":
    sys.exit(main())
