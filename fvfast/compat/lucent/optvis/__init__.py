"""`lucent.optvis`: objectives, parameterisations, transforms and `render_vis`."""

from fvfast.compat.lucent.optvis import objectives, param, render, transform

__all__ = ["objectives", "param", "render", "transform"]
