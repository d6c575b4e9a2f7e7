"""A frozen network on a CPU, lowered: recorded, fused, turned into two plain loops, and compared with itself."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from fvfast.fusion import fuse, laid_out
from fvfast.reverse import Reversible
from fvfast.tape import record

# A recorded network computes the same sums in another order: at most 2e-6 at the logits of 13 networks. Half
# precision rounds differently at every layer, and a ReLU at its edge passes a gradient or does not.
OUTPUT_TOLERANCE = {torch.float32: 1e-3, torch.bfloat16: 5e-2}
GRADIENT_TOLERANCE = {torch.float32: 1e-2, torch.bfloat16: 3e-1}


def lower(run: Callable[[Tensor], list[Tensor]], image: Tensor) -> Reversible | None:
    """`run` recorded at an image's size and fused; None where that cannot be done or would not be the same.

    run: a frozen network's outputs from an image [B, 3, H, W]. What comes out, and its gradient, are compared with
    `run` itself: a module with a backward pass of its own, say, stays as it is.
    """
    if image.dtype not in OUTPUT_TOLERANCE or not usable(image.dtype):
        return None
    generator = torch.Generator().manual_seed(0)
    # Judged by another image than the one it was recorded from, or a constant of that one would not show.
    example, other = (laid_out(torch.randn(image.shape, generator=generator).to(image)) for _ in range(2))
    try:
        tape = record(run, example)
        if tape is None:
            return None
        lowered = Reversible(fuse(tape, image.dtype))
        return lowered if _same(run, lowered, other) else None
    except Exception:
        # Operations for inference only, such as a transformer's fast path; too little memory to compare; an error of
        # the network's own. The network then runs as it is, and whatever it has to say it says there.
        return None


def usable(dtype: torch.dtype) -> bool:
    """Whether oneDNN is there, and fast in this dtype."""
    if not torch.backends.mkldnn.is_available() or not hasattr(torch.ops.mkldnn, "_convolution_pointwise"):
        return False
    return dtype == torch.float32 or torch.ops.mkldnn._is_mkldnn_bf16_supported()


def _same(run: Callable[[Tensor], list[Tensor]], lowered: Reversible, image: Tensor) -> bool:
    values: list[list[Tensor]] = []
    gradients: list[Tensor] = []
    for function in (run, lowered):
        leaf = image.detach().clone(memory_format=torch.channels_last).requires_grad_()
        with torch.enable_grad():
            outputs = function(leaf)
            if not any(o.requires_grad for o in outputs):
                return False
            generator = torch.Generator().manual_seed(1)
            loss = sum((o.float() * torch.randn(o.shape, generator=generator)).sum() for o in outputs)
            assert isinstance(loss, Tensor)
            gradients.append(torch.autograd.grad(loss, leaf)[0])
        values.append([o.detach() for o in outputs])
    near = all(_error(b, a) <= OUTPUT_TOLERANCE[image.dtype] for a, b in zip(*values, strict=True))
    return near and _error(gradients[1], gradients[0]) <= GRADIENT_TOLERANCE[image.dtype]


def _error(value: Tensor, reference: Tensor) -> float:
    scale = reference.float().norm()
    error = (value.float() - reference.float()).norm()
    return float(error / scale) if scale > 0 else float(error)
