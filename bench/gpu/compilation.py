"""Stage `compile`: every kernel that later stages launch, compiled by all processors at once into `.gpu-cache`.

    python -m bench.gpu.compilation --json FILE
    python -m bench.gpu.compilation --arch 90        for a GPU that is not here

Kernels go through triton's own launch path, stopped before the launch, so that later launches find them. Beside them
the networks of the steps' `compiled` baseline go through torch.compile, which needs the GPU.
"""

from __future__ import annotations

import contextlib
import functools
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from concurrent.futures import TimeoutError as Late
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from bench.gpu import cache
from bench.gpu.findings import Findings, needs_gpu, seconds_left, stage_parser
from bench.record import cores

CLOSING_S = 3.0
LONGER_S = 15.0  # that torch.compile's baselines may take, once all kernels are there
INDUCED = (64, 1)  # batches of GoogLeNet at 224 px whose compiled baseline bench.gpu.steps measures; quick: the last


class Elsewhere:
    """A driver for triton that knows a target and no GPU: enough to compile, never to launch."""

    def __init__(self, arch: int) -> None:
        self.arch = arch

    def get_current_target(self):
        from triton.backends.compiler import GPUTarget

        return GPUTarget("cuda", self.arch, 32)

    def get_current_device(self) -> int:
        return 0

    def get_current_stream(self, device: int) -> int:
        return 0


def compile_one(number: int, quick: bool) -> tuple[str, bool, float]:
    """Compile a launch of `wanted.all_launches`: (its kernel and tile, whether it was found in the cache, seconds)."""
    from triton import knobs

    one = _launches(quick)[number]
    hits: list[bool] = []
    started = time.perf_counter()
    knobs.compilation.listener = lambda *, cache_hit, **_: hits.append(cache_hit)
    compiled = one.kernel.warmup(*one.arguments, grid=one.grid, **one.constants)
    with contextlib.suppress(Exception):  # a launcher in C, which only a machine with the driver's library can link
        from triton.backends.nvidia.driver import CudaLauncher

        CudaLauncher(compiled.src, compiled.metadata)
    sizes = ", ".join(f"{key} {value}" for key, value in one.constants.items() if not isinstance(value, bool))
    return f"{one.kernel.__name__}: {sizes}", all(hits), time.perf_counter() - started


def compile_all(arch: int, quick: bool, findings: Findings) -> bool:
    """All launches, as far as the time goes; whether all were compiled."""
    from triton.runtime import driver

    driver.set_active(Elsewhere(arch))  # pyright: ignore[reportArgumentType] (all of it that compiling asks for)
    folder = cache.triton_folder()
    before = cache.settle(folder) if folder else 0
    count = len(_launches(quick))
    failures: list[str] = []
    times: list[tuple[float, str]] = []
    found = 0

    def tell() -> None:
        slowest = [f"{seconds:.1f} s {name}" for seconds, name in sorted(times, reverse=True)[:10]]
        findings.say(
            kernels=count, in_the_cache_before=before, found=found, compiled=len(times), failures=failures,
            compiling_s=round(sum(seconds for seconds, _ in times), 1), slowest=slowest, arch=arch,
        )  # fmt: skip

    tell()
    pool = ProcessPoolExecutor(cores(), mp_context=get_context("fork"))
    futures: list[Future] = [pool.submit(compile_one, number, quick) for number in range(count)]
    try:
        for future in as_completed(futures, timeout=max(1.0, min(3600, seconds_left() - CLOSING_S))):
            try:
                name, hit, seconds = future.result()
                found += hit
                times += [] if hit else [(seconds, name)]
            except Exception as error:
                failures.append(f"{type(error).__name__}: {str(error).strip()[:300]}")
            tell()
    except Late:
        pass  # the rest is compiled when it is launched
    for process in list((pool._processes or {}).values()):
        process.kill()  # what they compile may take a minute more, and their end seconds
    pool.shutdown(wait=False, cancel_futures=True)
    return found + len(times) == count


def prune(folder: Path) -> None:
    """Leave of a cache only what a launch needs: an eighth of it, since it is to travel."""
    for file in folder.glob("*/*"):
        if file.suffix in (".source", ".ttir", ".ttgir", ".llir", ".ptx"):
            file.unlink()


@contextlib.contextmanager
def induced(quick: bool) -> Iterator[list[subprocess.Popen]]:
    """The compiled baselines' networks, in processes beside this one, which end with this one at the latest."""
    command = [sys.executable, "-m", "bench.steps", "googlenet", "inception4a"]
    batches = INDUCED[1:] if quick else INDUCED
    running = [subprocess.Popen([*command, str(batch), "224", "--compile-only"]) for batch in batches]
    try:
        yield running
    finally:
        for process in running:
            process.kill()


def main() -> int:
    parser = stage_parser(__doc__)
    parser.add_argument("--arch", type=int, help="compile for this architecture, such as 90, without a GPU")
    options = parser.parse_args()
    findings = Findings(options.json)
    if options.arch is None and not needs_gpu("bench.gpu.compilation"):
        return 2
    started = time.perf_counter()
    if options.arch is not None:
        passed = compile_all(options.arch, options.quick, findings)
    else:
        import torch

        with induced(options.quick) as running:
            major, minor = torch.cuda.get_device_capability()
            passed = compile_all(10 * major + minor, options.quick, findings)
            findings.say(compile_s=round(time.perf_counter() - started, 1))
            passed &= _wait(running, findings)
    folder = cache.triton_folder()
    if folder:
        prune(folder)
    row: dict[str, Any] = {**findings.document, "seconds": round(time.perf_counter() - started, 1), "passed": passed}
    row.pop("rows")
    print(f"{row['kernels']} kernels in {row['seconds']} s: {row['found']} found, {row['compiled']} compiled")
    print("\n".join([*row["slowest"], *row["failures"]]))
    findings.add({"case": "kernels", "passed": passed and not row["failures"]})
    return findings.end()


def _wait(running: list[subprocess.Popen], findings: Findings) -> bool:
    """Wait a while for torch.compile; whether it did not end badly. What is unfinished is made when it is needed."""
    codes: list[int | None] = []
    until = time.monotonic() + min(LONGER_S, seconds_left() - CLOSING_S)
    for process in running:
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(max(0.1, until - time.monotonic()))
        codes.append(process.returncode)
    findings.say(torch_compile=["unfinished" if code is None else f"exit {code}" for code in codes])
    return not any(codes)


@functools.cache
def _launches(quick: bool) -> list[Any]:
    """All launches, what is wanted most first: the time may end before all are compiled. Listed once in a process."""
    from bench.gpu import wanted

    return wanted.all_launches(quick)


if __name__ == "__main__":
    sys.exit(main())
