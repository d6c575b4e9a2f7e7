"""fvfast's fused operations: from a learnable Fourier spectrum to the view that a network sees, and back."""

from fvfast_kernels.dispatch import available, describe
from fvfast_kernels.geometry import frequencies
from fvfast_kernels.loop import Buffers, synthesize_adjoint_adam_, synthesize_into
from fvfast_kernels.ops import adam_, synthesize, warp

__all__ = [
    "Buffers",
    "adam_",
    "available",
    "describe",
    "frequencies",
    "synthesize",
    "synthesize_adjoint_adam_",
    "synthesize_into",
    "warp",
]
