"""What the parts of some graphics cards do in a cycle or a second."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Card:
    """One card. Rates of arithmetic are a cycle and processor: CUDA's tables by compute capability.

    Clock and bandwidths are those of a card under load, a little below the data sheet's.
    """

    name: str
    processors: int
    clock: float  # Hz
    dram: float  # bytes a second
    l2: float  # bytes a second
    fma: int  # float32 products
    tensor: int  # float16 products by mma.sync
    wgmma: int  # float16 products by wgmma
    shared: int  # bytes of shared memory a processor
    threads: int  # resident a processor
    alu: int = 64  # integer and logic operations, float32 comparisons
    imad: int = 64  # integer products
    xu: int = 16  # exponentials, square roots, conversions
    issue: int = 4  # warp instructions
    registers: int = 65536

    def resident(self, registers: int, shared: int, warps: int) -> int:
        """How many programs fit into a processor. registers: a thread; shared: bytes a program."""
        by_registers = self.registers // (-(-registers // 8) * 8 * 32 * warps)
        return min(by_registers, self.shared // (shared + 1024), self.threads // (32 * warps))


CARDS = {
    80: Card("A100", 108, 1.41e9, 1.75e12, 4.5e12, 64, 1024, 1024, 164 << 10, 2048),
    89: Card("RTX 4090", 128, 2.5e9, 0.92e12, 5.0e12, 128, 512, 512, 100 << 10, 1536),
    90: Card("H100", 132, 1.75e9, 3.0e12, 5.5e12, 128, 1024, 2048, 228 << 10, 2048),
    120: Card("RTX 5090", 170, 2.4e9, 1.65e12, 6.0e12, 128, 512, 512, 100 << 10, 1536),
}
