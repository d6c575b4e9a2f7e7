"""`lucent.misc`: showing arrays in a notebook, and reducing their channels."""

from fvfast.compat.lucent.misc import channel_reducer, io

__all__ = ["channel_reducer", "io"]
