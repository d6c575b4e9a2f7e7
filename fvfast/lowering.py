"""A frozen network on a CPU, lowered: recorded, fused, turned into two plain loops, and compared with itself."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from fvfast.distances import distance
from fvfast.errors import is_out_of_memory
from fvfast.fusion import fuse, laid_out
from fvfast.kinks import decide, given
from fvfast.precision import emulated
from fvfast.reverse import Reversible
from fvfast.tape import Refused, Tape, in_short, record

# A recorded network computes the same sums in another order: at most 2e-6 at the logits of 13 networks. Half
# precision rounds differently at every layer, and a ReLU at its edge passes a gradient or does not.
OUTPUT_TOLERANCE = {torch.float32: 1e-3, torch.bfloat16: 5e-2}
GRADIENT_TOLERANCE = {torch.float32: 1e-2, torch.bfloat16: 3e-1}

Run = Callable[[Tensor], list[Tensor]]


def lower(run: Run, image: Tensor) -> Reversible:
    """`run` recorded at an image's size and fused.

    run: a frozen network's outputs from an image [B, 3, H, W]. What comes out, and its gradient, are compared with
    `run` itself: a module with a backward pass of its own, say, stays as it is. Raises `Refused` where the network
    cannot be lowered, or would not be the same; whatever else it raises is a fault of fvfast's.
    """
    if reason := unusable(image.dtype):
        raise Refused(reason)
    generator = torch.Generator().manual_seed(0)
    # Judged by another image than the one it was recorded from, or a constant of that one would not show.
    example, other = (laid_out(torch.randn(image.shape, generator=generator).to(image)) for _ in range(2))
    tape = record(run, example)
    try:
        right = _look(run, other)
    except Exception as error:  # whatever a network has to say, it says where it runs as it is
        raise Refused(f"it does not go through: {in_short(error)}") from error
    if right is None:
        raise Refused("its outputs do not depend on the image")
    try:
        lowered = Reversible(fuse(tape, image.dtype))
        if not _agree(_look(lowered, other), right, image.dtype):
            _explain(tape, lowered, other, right)
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        raise Refused("memory ran out while it was compared") from error
    return lowered


def unusable(dtype: torch.dtype) -> str:
    """Why networks are not lowered here in this dtype; nothing where they are."""
    name = str(dtype).removeprefix("torch.")
    if dtype not in OUTPUT_TOLERANCE:
        return f"networks in {name} are not fused"
    if not torch.backends.mkldnn.is_available() or not hasattr(torch.ops.mkldnn, "_convolution_pointwise"):
        return "this PyTorch comes without oneDNN"
    return emulated(dtype, torch.device("cpu"))


# What is compared --------------------------------------------------------------------------------------------

Looked = tuple[list[Tensor], Tensor]  # outputs, and the image's gradient of a random sum of them


def _look(run: Run, image: Tensor) -> Looked | None:
    """None where no output depends on the image."""
    leaf = image.detach().clone(memory_format=torch.channels_last).requires_grad_()
    with torch.enable_grad():
        outputs = run(leaf)
        if not any(o.requires_grad for o in outputs):
            return None
        generator = torch.Generator().manual_seed(1)
        loss = sum((o.float() * torch.randn(o.shape, generator=generator)).sum() for o in outputs)
        assert isinstance(loss, Tensor)
        (gradient,) = torch.autograd.grad(loss, leaf, allow_unused=True)
    return None if gradient is None else ([o.detach() for o in outputs], gradient)


def _agree(found: Looked | None, right: Looked, dtype: torch.dtype) -> bool:
    if found is None:
        return False
    near = all(distance(a, b) <= OUTPUT_TOLERANCE[dtype] for a, b in zip(found[0], right[0], strict=True))
    return near and distance(found[1], right[1]) <= GRADIENT_TOLERANCE[dtype]


def _explain(tape: Tape, lowered: Reversible, image: Tensor, right: Looked) -> None:
    """Why a lowered network differs from `right`, the network's own.

    Raises `Refused` where the recorded operations, replayed one by one, differ too; an AssertionError where only the
    fused ones do, which in float32 is a fault. Returns where they differ in nothing but units that lie on the edge of
    their ReLU (`fvfast.kinks`).
    """
    dtype = image.dtype
    if not _agree(_look(tape, image), right, dtype):
        raise Refused("its operations do something else with another image, or with the gradient")
    decided = decide(tape, given(lowered, image))
    as_lowered = decided and _look(decided[0], image)
    if as_lowered is None or not _agree(_look(lowered, image), as_lowered, dtype):
        if dtype != torch.float32:  # eight bits add up to anything in a network that is deep enough
            raise Refused("fused operations round too differently from its own in half precision")
        raise AssertionError("the fused operations differ from those that were recorded")
