"""torch-lucent's interface on fvfast's engine: a script for lucent 0.1.8 runs unchanged but for its imports.

    from fvfast.compat.lucent.modelzoo import googlenet
    from fvfast.compat.lucent.optvis import objectives, param, render, transform

docs/lucent.md says what is faster, and what is different on purpose.
"""

from fvfast.compat.lucent import misc, modelzoo, optvis, util
from fvfast.compat.lucent.optvis import objectives, param, render, transform

__version__ = "0.1.8"  # of the interface

__all__ = ["misc", "modelzoo", "objectives", "optvis", "param", "render", "transform", "util"]
