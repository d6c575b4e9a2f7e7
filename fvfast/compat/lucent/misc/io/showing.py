"""`lucent.misc.io.showing`: arrays as images in a notebook."""

from __future__ import annotations

import base64
import uuid
from collections.abc import Sequence
from typing import Any

import numpy as np

from fvfast.compat.lucent.misc.io.collapse_channels import collapse_channels
from fvfast.compat.lucent.misc.io.serialize_array import serialize_array, to_picture
from fvfast.errors import FvfastError

__all__ = ["animate_sequence", "html", "image", "images", "show", "to_picture"]

Array = np.ndarray[Any, Any]
Pictures = Array | Sequence[Array]
Domain = tuple[float, float] | None


def show(thing: object, domain: Domain = (0, 1), labels: Sequence[str] | None = None, width: int | None = None) -> None:
    """Show one image [H, W] or [H, W, C], or several ([B, H, W, C] or a list), in a notebook.

    domain: what black and white are; None for the smallest and the largest value. labels: one an image, by default
    its number. width: in pixels, by default the image's own. Where C is neither 1 nor 3 nor 4, each channel is a hue of
    its own. What is no image is printed. Raises FvfastError outside of IPython.
    """
    if isinstance(thing, np.ndarray):
        if thing.ndim not in (2, 3, 4):
            print(repr(thing))
            return
        thing = _in_colour(thing)
    elif isinstance(thing, (list, tuple)) and all(isinstance(one, np.ndarray) for one in thing):
        thing = [_in_colour(one) for one in thing]
    else:
        print(repr(thing))
        return
    _display_html(html(thing, domain, labels, width))


def image(array: Array, domain: Domain = None, width: int | None = None, fmt: str = "png") -> None:
    """Show one image, by default from its smallest to its largest value."""
    _display_html(_image_html(array, width, domain, fmt))


def images(
    arrays: Pictures, labels: Sequence[str] | None = None, domain: Domain = None, width: int | None = None
) -> None:
    """Show several images side by side, each by default from its smallest to its largest value."""
    _display_html(html(list(arrays), domain, labels, width))


def animate_sequence(sequence: Array, domain: Domain = (0, 1), fmt: str = "png") -> None:
    """Show images [B, H, W, C] as a film of a second, to and fro."""
    count, height, width = sequence.shape[:3]
    name = f"film-{uuid.uuid4().hex[:8]}"  # several can be on one page
    strip = _image_url(np.concatenate(list(sequence), axis=1), fmt, domain=domain)
    _display_html(
        f"<style>#{name} {{width: {width}px; height: {height}px; background: url('{strip}') left center; "
        f"animation: {name} 1s steps({count}) infinite alternate}} "
        f"@keyframes {name} {{100% {{background-position: -{count * width}px}}}}</style><div id='{name}'></div>"
    )


def html(
    thing: Pictures, domain: Domain = (0, 1), labels: Sequence[str] | None = None, width: int | None = None
) -> str:
    """What `show` shows: the images side by side, as PNGs inside the page."""
    alone = isinstance(thing, np.ndarray) and thing.ndim <= 3
    arrays = [np.asarray(thing)] if alone else [np.asarray(one) for one in thing]
    names = [""] if alone and labels is None else list(labels or map(str, range(len(arrays))))
    if len(names) != len(arrays):
        raise FvfastError(f"labels are one an image: {len(arrays)} images have {len(names)}")
    cells = [
        f'<div style="margin: 0 10px 4px 0">{name}<br>{_image_html(array, width, domain)}</div>'
        for name, array in zip(names, arrays, strict=True)
    ]
    return f'<div style="display: flex; flex-wrap: wrap">{"".join(cells)}</div>'


def _image_html(array: Array, width: int | None = None, domain: Domain = None, fmt: str = "png") -> str:
    wide = f" width={width}" if width else ""
    return f'<img src="{_image_url(array, fmt, domain=domain)}"{wide} style="image-rendering: pixelated">'


def _image_url(array: Array, fmt: str = "png", mode: str = "data", quality: int = 90, domain: Domain = None) -> str:
    """An image as an URL that holds all of it."""
    if mode != "data":
        raise FvfastError(f"unknown mode {mode!r}; there is data")
    data = base64.b64encode(serialize_array(array, domain, fmt, quality)).decode()
    return f"data:image/{fmt.lower()};base64,{data}"


def _display_html(text: str) -> None:
    try:
        from IPython.display import HTML, display  # pyright: ignore[reportMissingImports] (notebooks have it)
    except ImportError as error:
        raise FvfastError("showing images inline needs a notebook (pip install ipython)") from error
    display(HTML(text))


def _in_colour(array: Array) -> Array:
    many = array.ndim in (3, 4) and array.shape[-1] not in (1, 3, 4)
    return collapse_channels(array) if many else array
