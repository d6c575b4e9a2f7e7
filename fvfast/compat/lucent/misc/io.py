"""`lucent.misc.io`: `show` puts arrays into a notebook as images."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from typing import Any

import numpy as np
import PIL.Image

from fvfast.errors import FvfastError

Pictures = np.ndarray[Any, Any] | Sequence[np.ndarray[Any, Any]]


def show(
    thing: Pictures,
    domain: tuple[float, float] | None = (0, 1),
    labels: Sequence[str] | None = None,
    width: int | None = None,
) -> None:
    """Show one image [H, W] or [H, W, C], or several ([B, H, W, C] or a list), in a notebook.

    domain: what black and white are; None for the smallest and the largest value. labels: one an image, by default
    its number. width: in pixels, by default the image's own. Raises FvfastError outside of IPython.
    """
    try:
        from IPython.display import HTML, display  # pyright: ignore[reportMissingImports] (notebooks have it)
    except ImportError as error:
        raise FvfastError("showing images inline needs a notebook (pip install ipython)") from error
    display(HTML(html(thing, domain, labels, width)))


def html(
    thing: Pictures,
    domain: tuple[float, float] | None = (0, 1),
    labels: Sequence[str] | None = None,
    width: int | None = None,
) -> str:
    """What `show` shows: the images side by side, as PNGs inside the page."""
    alone = isinstance(thing, np.ndarray) and thing.ndim <= 3
    arrays = [np.asarray(thing)] if alone else [np.asarray(one) for one in thing]
    names = [""] if alone and labels is None else list(labels or map(str, range(len(arrays))))
    cells = [
        f'<div style="margin: 0 10px 4px 0">{name}<br><img src="data:image/png;base64,{_png(array, domain)}"'
        f'{f" width={width}" if width else ""} style="image-rendering: pixelated"></div>'
        for name, array in zip(names, arrays, strict=True)
    ]
    return f'<div style="display: flex; flex-wrap: wrap">{"".join(cells)}</div>'


def to_picture(array: np.ndarray[Any, Any], domain: tuple[float, float] | None = (0, 1)) -> PIL.Image.Image:
    """An array [H, W] or [H, W, 1, 3 or 4] as 8 bits a channel, rounded to nearest."""
    if array.ndim == 3 and array.shape[2] == 1:
        array = array[..., 0]
    if array.ndim not in (2, 3) or (array.ndim == 3 and array.shape[2] not in (3, 4)):
        raise FvfastError(f"an image is [H, W] or [H, W, 1, 3 or 4], not {list(array.shape)}")
    low, high = (float(array.min()), float(array.max())) if domain is None else domain
    scaled = (array.astype(np.float64) - low) / max(high - low, 1e-12)
    return PIL.Image.fromarray((scaled.clip(0, 1) * 255).round().astype(np.uint8))


def _png(array: np.ndarray[Any, Any], domain: tuple[float, float] | None) -> str:
    buffer = io.BytesIO()
    to_picture(array, domain).save(buffer, format="PNG")
    return base64.b64encode(buffer.getvalue()).decode()
