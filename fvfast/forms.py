"""The forms that a network can run in on a GPU."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from torch import Tensor

MODULES, TUNED, RECORDED, COMPILED = "modules", "tuned", "recorded", "compiled"
FORMS = (MODULES, TUNED, RECORDED, COMPILED)
AUTO = "auto"
NETWORKS = (AUTO, *FORMS)  # what can be asked for


@dataclass(frozen=True)
class Form:
    """How a network runs for some layers and images of one shape.

    name: "modules", its own; "tuned", the same with algorithms that cuDNN has measured; "recorded", its operations
    replayed with convolution, bias and ReLU in one (`fvfast.recorded`); "compiled" by Inductor (`fvfast.compiled`).
    why: how it came to be this one. run: what stands for the modules, from images [B, C, H, W] to outputs; None for
    the modules themselves.
    """

    name: str
    why: str = ""
    run: Callable[[Tensor], list[Tensor]] | None = field(default=None, repr=False, compare=False)

    @property
    def tuned(self) -> bool:
        """Whether cuDNN measures its algorithms before the step is captured."""
        return self.name != MODULES
