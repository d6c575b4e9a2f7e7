"""Whether a network that was changed in form puts out what it did as it was given."""

from __future__ import annotations

from collections.abc import Collection, Sequence

import torch
from torch import Tensor

from fvfast.distances import distance
from fvfast.errors import is_out_of_memory
from fvfast.habits import seeded
from fvfast.layers import Tap

# A network in the form that runs against the network as it was given, in the same type, for an image's first view.
TOLERANCE = {torch.float32: 1e-3, torch.bfloat16: 5e-2, torch.float16: 1e-2}


def passes(trial: Tap, reference: Tap, image: Tensor, names: Collection[str]) -> bool:
    """Whether a network that was changed in form does what the one that was given does, for an image [B, C, H, W].

    In its second pass: what a first one leaves behind, being cut short, must not change it.
    """
    try:
        seen(trial, 0.5 * image.flip(-1), names)
        return agree(trial, reference, image, names)
    except Exception as error:  # networks refuse what they do not know with every kind of exception
        if is_out_of_memory(error):
            raise
        return False


def agree(tap: Tap, reference: Tap, image: Tensor, names: Collection[str]) -> bool:
    """Whether two networks put out the same for an image [B, C, H, W], as far as their type can tell."""
    return near(seen(tap, image, names), seen(reference, image, names), image.dtype)


@torch.no_grad()
def seen(tap: Tap, image: Tensor, names: Collection[str]) -> list[Tensor]:
    """What a network puts out at some layers for an image [B, C, H, W], which it gets in a copy."""
    with seeded(0):
        return [output.detach() for output in tap(image.detach().clone(), names).values()]


def near(found: Sequence[Tensor], right: Sequence[Tensor], dtype: torch.dtype) -> bool:
    """Whether outputs are as near to the right ones as the type that they were computed in allows."""
    # What is not a number is said of the objective, whichever form it comes from.
    pairs = [(a, b) for a, b in zip(found, right, strict=True) if b.isfinite().all()]
    return all(a.shape == b.shape and distance(a, b) <= TOLERANCE[dtype] for a, b in pairs)
