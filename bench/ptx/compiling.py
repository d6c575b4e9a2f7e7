"""Launches compiled to PTX, and no further: the emulator runs PTX, and ptxas takes as long as all before it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from bench.resources import compile_launch


def compile_to_ptx(launch, arch: int) -> tuple[str, int]:
    """The PTX of a launch (`fvfast_kernels.launch.Launch`) for sm_`arch`, and its bytes of shared memory."""
    with _without_machine_code():
        compiled = compile_launch(launch, arch)
    return compiled.asm["ptx"], compiled.metadata.shared


@contextmanager
def _without_machine_code() -> Iterator[None]:
    """triton without its last stage, in a cache of its own: what it leaves there must not be met at run time."""
    from triton import knobs
    from triton.backends.nvidia.compiler import CUDABackend

    make_cubin = CUDABackend.make_cubin
    with knobs.cache.scope():
        knobs.cache.dir = f"{knobs.cache.dir}-ptx"
        CUDABackend.make_cubin = lambda self, *arguments, **options: b""
        try:
            yield
        finally:
            CUDABackend.make_cubin = make_cubin
