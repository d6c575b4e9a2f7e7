"""A device that runs launches in the emulator on tensors in CPU memory."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from bench.ptx.compiling import compile_to_ptx
from bench.ptx.global_memory import Allocation, Memory
from bench.ptx.machine import Kernel, Place


@dataclass(frozen=True)
class Options:
    """How kernels are run; see `bench.ptx.machine.Kernel`. truncate: whether tensor cores cut sums off."""

    truncate: bool = False
    noise: int = 0
    measure: bool = False

    def kernel(self, text: str, shared: int, arch: int) -> Kernel:
        together = (16 if arch >= 90 else 8) if self.truncate else 0  # products summed at once
        return Kernel(text, shared, truncate=together, noise=self.noise, measure=self.measure)


def parameters(launch: Any, address: Callable[[torch.Tensor], int]) -> list[float]:
    """A launch's arguments as triton passes them: a 1 is compiled in, two scratch pointers come last."""
    out: list[float] = []
    for value in launch.arguments:
        if isinstance(value, torch.Tensor):
            out.append(address(value))
        elif not (isinstance(value, int) and value == 1):
            out.append(value)
    return [*out, 0, 0]


def storage(tensor: torch.Tensor) -> np.ndarray:
    """All that a tensor's storage holds, as one row that shares its memory; bfloat16 as int16."""
    flat = torch.as_strided(tensor.detach(), (tensor.untyped_storage().nbytes() // tensor.element_size(),), (1,), 0)
    return (flat.view(torch.int16) if tensor.dtype == torch.bfloat16 else flat).numpy()


@dataclass
class Device:
    """Emulated memory, and the kernels that ran on it.

    Attributes:
        arch: of the GPU, 90 for sm_90.
        kernels: name and findings of every launch so far.
    """

    arch: int
    options: Options = field(default_factory=Options)
    memory: Memory = field(default_factory=Memory)
    kernels: list[tuple[str, Kernel]] = field(default_factory=list)
    _at: dict[int, int] = field(default_factory=dict)

    def put(self, name: str, tensor: torch.Tensor, role: str = "in") -> None:
        """Gives a tensor's storage an address; one that has one keeps it."""
        key = tensor.untyped_storage().data_ptr()
        if key not in self._at:
            self._at[key] = self.memory.add(name, storage(tensor), role)

    def address(self, tensor: torch.Tensor) -> int:
        return self._at[tensor.untyped_storage().data_ptr()] + int(tensor.storage_offset()) * tensor.element_size()

    def run(self, launch: Any, ctas: Iterable[Place] | None = None) -> None:
        """Runs a launch, or some of its CTAs, and brings what it wrote into the tensors."""
        text, shared = compile_to_ptx(launch, self.arch)
        kernel = self.options.kernel(text, shared, self.arch)
        self.kernels.append((launch.kernel.__name__, kernel))
        kernel.launch(self.memory, launch.grid, parameters(launch, self.address), ctas)
        self.memory.fetch()

    def update(self, name: str, tensor: torch.Tensor) -> None:
        """Puts a tensor's present values into the memory."""
        a = self.memory.named(name)
        a.restore(storage(tensor).view(np.uint8), np.ones(a.ready.size, bool))

    def unwritten(self, name: str) -> int:
        """Bytes of a tensor that nothing wrote."""
        return self.memory.named(name).unwritten()

    def written(self, name: str, shape: tuple[int, ...]) -> np.ndarray:
        """Which of a tensor's float32 entries the last launch wrote."""
        a: Allocation = self.memory.named(name)
        return (a.writer[: a.size // 2 : 2] >= 0).reshape(shape)
