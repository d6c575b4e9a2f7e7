"""How many images a GPU holds at once: measured on one and on two, not guessed."""

from __future__ import annotations

from collections.abc import Callable

import torch

from fvfast.errors import is_out_of_memory
from fvfast.prepare import Fast
from fvfast.step import Batch, Step

# Left free for what the allocator cannot use (fragments) and for other processes' small needs.
HEADROOM = 0.9


def images_that_fit(free: int, one: int, two: int) -> int:
    """How many images fit into `free` bytes, where one takes `one` bytes at its peak and two take `two`."""
    each = max(1, two - one)
    fixed = max(0, one - each)
    return max(1, int((free * HEADROOM - fixed) // each))


def largest_batch(make: Callable[[int], Batch], tap: Fast, device: torch.device) -> int:
    """The largest batch of `make(count)` that a CUDA device has memory for, from a step of one and one of two."""
    peaks: list[int] = []
    for count in (1, 2):
        torch.cuda.empty_cache()
        before = torch.cuda.memory_allocated(device)
        torch.cuda.reset_peak_memory_stats(device)
        try:
            Step(make(count), tap)()
        except Exception as error:
            if is_out_of_memory(error):
                return 1
            raise
        torch.cuda.synchronize(device)
        peaks.append(torch.cuda.max_memory_allocated(device) - before)
    torch.cuda.empty_cache()
    free, _ = torch.cuda.mem_get_info(device)
    return images_that_fit(free, *peaks)
