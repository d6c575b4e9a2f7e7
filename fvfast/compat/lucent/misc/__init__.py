"""`lucent.misc`: showing arrays in a notebook."""

from fvfast.compat.lucent.misc import io

__all__ = ["io"]
