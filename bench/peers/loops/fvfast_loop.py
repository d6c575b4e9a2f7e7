"""fvfast itself, by `fvfast.render`, with a named recipe: steps and size as asked, the rest the recipe's own.

Several images are one batch (`batch=`), so that the threads are those that were asked for. The loop's seconds are the
ones that `render` reports: its first steps are among them, so fvfast comes out a little slower than by the others'
clock.
"""

from __future__ import annotations

from torch import Tensor

import fvfast
from bench.peers.task import Clock, Task


def render(net: None, task: Task, clock: Clock, recipe: str, dtype: str | None = None) -> Tensor:
    """net: none: fvfast loads the same network itself, as `fvfast.load()`."""
    result = fvfast.render(
        target=[f"{task.layer}:{channel}" for channel in task.channels],
        recipe=recipe,
        dtype=dtype,
        size=task.size,
        steps=task.steps,
        seed=task.seed,
        batch=len(task.channels),
        device=task.device,
        threads=task.threads,
    )
    clock.took(task.steps, result.stages["loop"])
    clock.dtype = result.dtype
    return result.images
