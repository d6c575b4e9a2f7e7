"""`lucent.misc.io`: `show` puts arrays into a notebook as images."""

from fvfast.compat.lucent.misc.io.showing import html, show, to_picture

__all__ = ["html", "show", "to_picture"]
