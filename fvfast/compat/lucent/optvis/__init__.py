"""`lucent.optvis`: objectives, parameterisations, transforms and `render_vis`."""

from fvfast.compat.lucent.optvis import objectives, objectives_util, param, render, transform

__all__ = ["objectives", "objectives_util", "param", "render", "transform"]
