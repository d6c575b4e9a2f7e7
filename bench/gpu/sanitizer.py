"""Stage `sanitizer`: NVIDIA's compute-sanitizer on every kernel at a small, awkward size.

    python -m bench.gpu.sanitizer --json FILE

memcheck looks for accesses outside of allocations, racecheck for races in shared memory. What they watch is this
module's own `--launch`, with every tensor an allocation of its own, so that one byte beyond it shows.
"""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
from pathlib import Path
from typing import Any

from bench.gpu import processes
from bench.gpu.document import ROOT
from bench.gpu.findings import Findings, needs_gpu, seconds_left, stage_parser

TOOLS = ("memcheck", "racecheck")  # in the order of their worth
FOUND = 9  # the exit status that the tool gives where it found something
LEAST_S, CLOSING_S, ALONE_S = 8.0, 2.0, 120.0
HEIGHT, WIDTH, OUT, BATCH = 33, 40, (28, 31), 2  # odd and even, a view that ends inside a tile
LAYOUTS = ("nchw", "nhwc4")


def launch() -> None:
    """Every kernel once: both precisions, two layouts, Adam and gradients, a phase, a rotation."""
    import torch
    from fvfast_kernels import Buffers, adam_, synthesize, synthesize_adjoint_adam_, synthesize_into, warp

    generator = torch.Generator().manual_seed(0)

    def random(*shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=generator).cuda()

    views = (torch.rand(BATCH, 5, generator=generator) * 0.2 + torch.tensor([3, -2, 0.9, 0.9, 0])).cuda()
    step, columns = torch.zeros(1, dtype=torch.int32).cuda(), WIDTH // 2 + 1
    envelope, rates = random(HEIGHT, columns).abs(), torch.full((BATCH,), 0.05).cuda()
    look: dict[str, Any] = {"colour": torch.eye(3).cuda(), "mean": torch.zeros(3).cuda(), "std": torch.ones(3).cuda()}
    for precision in ("exact", "fast"):
        for layout in LAYOUTS:
            spectrum = random(BATCH, 3, 2, HEIGHT, columns)
            buffers = Buffers.allocate(
                BATCH, HEIGHT, WIDTH, OUT, **look, precision=precision, dtype=torch.float16, layout=layout,
                device="cuda", backend="triton",
            )  # fmt: skip
            source = (envelope, views[None], step)
            synthesize_into(buffers, spectrum, *source)
            moments = (torch.zeros_like(spectrum), torch.zeros_like(spectrum), rates)
            synthesize_adjoint_adam_(buffers, torch.ones_like(buffers.view), spectrum, *moments, *source)
        phase = random(BATCH, 3, HEIGHT, columns).requires_grad_()
        magnitude = random(3, HEIGHT, columns).abs()
        view = synthesize(
            phase, envelope, views, width=WIDTH, out_size=OUT, **look, precision=precision, magnitude=magnitude,
            backend="triton",
        )  # fmt: skip
        view.square().sum().backward()
    image = random(BATCH, 3, HEIGHT, WIDTH).requires_grad_()
    matrix = torch.tensor([[0.9, 0.2, 1.0], [-0.2, 0.9, -2.0]]).expand(BATCH, 2, 3).contiguous().cuda()
    warp(image, matrix, OUT, backend="triton").square().sum().backward()
    assert image.grad is not None
    with torch.no_grad():
        adam_(image, image.grad, torch.zeros_like(image), torch.zeros_like(image), step[0] + 1, rates, backend="triton")
    torch.cuda.synchronize()
    print("every kernel was launched")


def watch(tool: str, program: str, findings: Findings) -> None:
    """One tool over all launches, as far as there is time."""
    with findings.case(tool) as row:
        seconds = min(ALONE_S, seconds_left() - CLOSING_S)
        if seconds < LEAST_S:
            row |= {"ran": False, "words": "no time was left"}
            return
        command = [program, "--tool", tool, "--error-exitcode", str(FOUND), sys.executable, "-m", __spec__.name]
        # No allocator between the kernels and the driver: a tensor is an allocation.
        environment = {**os.environ, "PYTORCH_NO_CUDA_MEMORY_CACHING": "1"}
        with tempfile.TemporaryDirectory() as work:
            ended = processes.run([*command, "--launch"], seconds, Path(work) / "log", ROOT, environment)
        if ended.code is None:
            row |= {"ran": False, "words": f"not finished within {seconds:.0f} s"}
            return
        row |= {"ran": True, "passed": ended.code == 0, "exit": ended.code}
        row["words"] = "nothing found" if row["passed"] else "FOUND SOMETHING" if ended.code == FOUND else "FAILED"
        if not row["passed"]:
            row["output"] = ended.output[-6000:]


def main() -> int:
    parser = stage_parser(__doc__)
    parser.add_argument("--launch", action="store_true", help="only launch the kernels")
    options = parser.parse_args()
    if not needs_gpu("bench.gpu.sanitizer"):
        return 2
    if options.launch:
        launch()
        return 0
    findings = Findings(options.json)
    program = shutil.which("compute-sanitizer") or shutil.which("compute-sanitizer", path="/usr/local/cuda/bin")
    if program is None:
        findings.add({"case": "compute-sanitizer", "ran": False, "words": "it is not installed"})
        return 0
    for tool in TOOLS[:1] if options.quick else TOOLS:
        watch(tool, program, findings)
    return findings.end()


if __name__ == "__main__":
    sys.exit(main())
