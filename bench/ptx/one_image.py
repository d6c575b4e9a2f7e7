"""One image's share of a launch: which programs to run for it, and memory for no more than it."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from bench.ptx.device import parameters
from bench.ptx.global_memory import Memory
from bench.ptx.machine import Place

# Shift, zoom and shear, as a render draws them.
_VIEW = np.array([3.2, -5.7, 1.05, 0.95, 0.1], np.float32)


def representatives(count: int) -> dict[int, int]:
    """First, middle and last of `count` tiles, and how many tiles each stands for."""
    if count <= 3:
        return dict.fromkeys(range(count), 1)
    return {0: 1, count // 2: count - 2, count - 1: 1}


def tile_grid(launch: Any) -> tuple[int, int]:
    """The two dimensions of tiles that a launch folds into its grid's first: program a * second + b."""
    name, constants, programs = launch.kernel.__name__, launch.constants, launch.grid[0]
    if name == "bases":
        return programs, 1
    if name == "rows":
        size, block = (constants["RW"] + 1) // 2, constants["BJ"]
    else:
        size, block = constants["COLUMNS" if name == "columns_adjoint" else "KP"], constants["BK"]
    second = -(-size // block)
    if programs % second:
        raise ValueError(f"The {programs} programs of {name} are no rows of {second} tiles: run every program.")
    return programs // second, second


def programs(launch: Any, batch: int, every: bool) -> dict[Place, int]:
    """Programs of the first image, and how many of the image's each stands for; its channels are alike.

    every: all of a channel, not only the first, middle and last of each dimension of tiles.
    """
    alike = launch.grid[1] // batch
    if every:
        return {(x, 0, 0): alike for x in range(launch.grid[0])}
    first, second = tile_grid(launch)
    return {
        (a * second + b, 0, 0): alike * these * of_these
        for a, these in representatives(first).items()
        for b, of_these in representatives(second).items()
    }


class Operands:
    """A launch's tensors, which may be on the device "meta", in emulated memory with plausible values.

    Of a tensor that lies image by image, there is the first image only.

    Attributes:
        parameters: what the kernel is called with.
        per_image: bytes an image of the tensors that lie image by image, by allocation.
    """

    def __init__(self, launch: Any, batch: int):
        self.memory, self._batch = Memory(), batch
        self.per_image: dict[str, int] = {}
        self._at: dict[int, int] = {}
        self._random = np.random.default_rng(0)
        self.parameters = parameters(launch, self._address)

    def _address(self, tensor: torch.Tensor) -> int:
        if id(tensor) not in self._at:
            name, array = f"tensor {len(self._at)}", self._values(tensor)
            self._at[id(tensor)] = self.memory.add(name, array, "inout")
            if self._by_image(tensor):
                self.per_image[name] = array.nbytes
        return self._at[id(tensor)]

    def _by_image(self, tensor: torch.Tensor) -> bool:
        return tensor.dim() > 2 and tensor.shape[0] == self._batch

    def _values(self, tensor: torch.Tensor) -> np.ndarray:
        if tensor.dtype == torch.int32:  # the step
            return np.zeros(tensor.numel(), np.int32)
        if tensor.dim() == 3 and tensor.shape[2] == len(_VIEW):
            return np.broadcast_to(_VIEW, tensor.shape).copy()
        count = tensor.numel() // (self._batch if self._by_image(tensor) else 1)
        kind = {torch.float32: np.float32, torch.float16: np.float16}[tensor.dtype]
        return self._random.uniform(0.1, 0.9, count).astype(kind)

    def moved(self) -> int:
        """Bytes an image that have to move between DRAM and the processors: each read and each write once."""
        sizes = ((self.per_image.get(a.name, 0), a) for a in self.memory.allocations)
        return sum(size * (a.was_read + a.was_written) for size, a in sizes)
