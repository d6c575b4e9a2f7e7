"""Images of channels that are no colours: one page a channel in a TIFF, and side by side in grey to look at."""

from __future__ import annotations

import io
import json
import math
from typing import Any

import numpy as np
import PIL.Image
import torch
from PIL import ImageDraw, ImageFont, ImageSequence, TiffImagePlugin
from torch import Tensor

SUFFIX = ".tif"
PAPER, INK = (250, 250, 248), (28, 28, 30)
DESCRIPTION, SOFTWARE, PAGE = 270, 305, 285  # TIFF's tags


def colours(channels: int) -> bool:
    """Whether an image of so many channels is a picture as it is: grey, or red, green and blue."""
    return channels in (1, 3)


def side_by_side(image: Tensor) -> PIL.Image.Image:
    """The channels of an image [C, H, W] in 0..1, each in grey, numbered from 0, in rows: RGB."""
    channels, height, width = image.shape
    columns = math.ceil(math.sqrt(channels))
    text = max(9, round(height * 0.09))
    gap, head = max(2, height // 32), round(text * 1.4)
    page = PIL.Image.new(
        "RGB", (columns * (width + gap) + gap, math.ceil(channels / columns) * (height + head + gap)), PAPER
    )
    draw, font = ImageDraw.Draw(page), ImageFont.load_default(text)
    for channel, plane in enumerate(_planes(image)):
        x, y = gap + channel % columns * (width + gap), channel // columns * (height + head + gap)
        draw.text((x, y + (head - text) // 2), str(channel), INK, font=font)
        page.paste(plane, (x, y + head))
    return page


def encode(image: Tensor, text: str, software: str, opacity: PIL.Image.Image | None = None) -> bytes:
    """An image [C, H, W] in 0..1 as a TIFF of C pages of 8 bits. text: its description, ASCII.

    opacity: of all channels, where the pages are to have one.
    """
    pages = _planes(image)
    for channel, page in enumerate(pages):
        if opacity is not None:
            page.putalpha(opacity)
        page.encoderinfo = {"tiffinfo": {PAGE: f"channel {channel}", DESCRIPTION: text, SOFTWARE: software}}
    first, *rest = pages
    buffer = io.BytesIO()  # written to and read from by turns, which not every file lets be done to it
    options = {"save_all": True, "append_images": rest, "compression": "tiff_lzw", **first.encoderinfo}
    first.save(buffer, format="TIFF", **options)
    return buffer.getvalue()


def described(picture: PIL.Image.Image) -> str | None:
    """What `encode` was told of a TIFF that is open; None for other pictures."""
    if not isinstance(picture, TiffImagePlugin.TiffImageFile):
        return None
    text = picture.tag_v2.get(DESCRIPTION)
    return text if isinstance(text, str) and "recipe" in _object(text) else None


def read(picture: PIL.Image.Image) -> Tensor | None:
    """The image [C, H, W] in 0..1 that `encode` put into a TIFF that is open; None for other pictures."""
    if described(picture) is None:
        return None
    pages = [np.array(page.convert("L")) for page in ImageSequence.Iterator(picture)]
    return torch.from_numpy(np.stack(pages)).float().div_(255)


def viewable(data: bytes) -> bytes:
    """A picture's bytes as browsers can show it: a TIFF of `encode` as a PNG with its channels side by side."""
    if data[:4] not in (b"II*\0", b"MM\0*"):
        return data
    with PIL.Image.open(io.BytesIO(data)) as picture:
        image = read(picture)
    if image is None:
        return data
    buffer = io.BytesIO()
    side_by_side(image).save(buffer, format="PNG")
    return buffer.getvalue()


def _planes(image: Tensor) -> list[PIL.Image.Image]:
    return [PIL.Image.fromarray(plane) for plane in (image.clamp(0, 1) * 255).round().byte().contiguous().numpy()]


def _object(text: str) -> dict[str, Any]:
    try:
        found = json.loads(text)
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}
