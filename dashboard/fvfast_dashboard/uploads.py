"""Photographs from a browser: taken for hostile until they have shown to be pictures of a bearable size."""

from __future__ import annotations

import hashlib
import io
import re
import warnings
from dataclasses import dataclass, field
from pathlib import PurePath

import PIL.Image
from PIL import ImageOps

from fvfast.errors import FvfastError

LARGEST_MB = 32
LARGEST_PIXELS = 24_000_000
# What cameras and the web use. Pillow reads many more, some of them by way of other programs.
FORMATS = {"JPEG": ".jpg", "PNG": ".png", "WEBP": ".webp", "TIFF": ".tif", "BMP": ".bmp", "GIF": ".gif"}
SUFFIXES = ("jpg", "jpeg", "png", "webp", "tif", "tiff", "bmp", "gif")


@dataclass(frozen=True)
class Upload:
    """A picture that has been looked at. name: for people, without folders; digest: of its bytes, in hexadecimal;
    suffix: of its format, whatever its name says. width, height: in pixels, upright."""

    name: str
    data: bytes = field(repr=False)
    digest: str
    suffix: str
    width: int
    height: int


def accept(name: str, data: bytes) -> Upload:
    """Look at what was uploaded. Raises FvfastError, one sentence, where it is not a picture to dream over."""
    from fvfast import photographs  # late: it brings torch
    from fvfast.dreaming import SMALLEST

    name = plain_name(name)
    if len(data) > LARGEST_MB * 1024 * 1024:
        raise FvfastError(f"{name} has {len(data) / 2**20:.0f} MB: {LARGEST_MB} MB are the most")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the limit below is stricter than Pillow's warning
            with PIL.Image.open(io.BytesIO(data), formats=tuple(FORMATS)) as picture:
                width, height = picture.size
                if width * height > LARGEST_PIXELS:  # before a single pixel is unpacked
                    raise FvfastError(
                        f"{name} has {width}x{height} pixels: {LARGEST_PIXELS // 10**6} million are the most; make it "
                        "smaller"
                    )
                if min(width, height) < SMALLEST:
                    raise FvfastError(f"{name} has {width}x{height} pixels: {SMALLEST} on each side are the least")
                frames = len(photographs.frames_of(picture, name))
                if frames > 1:
                    raise FvfastError(f"{name} has {frames} frames: give one of them by itself, or use `fvfast dream`")
                picture.load()
                kind = picture.format or "PNG"
                width, height = ImageOps.exif_transpose(picture).size
    except FvfastError:
        raise
    except PIL.Image.DecompressionBombError as error:
        raise FvfastError(f"{name} has too many pixels: {LARGEST_PIXELS // 10**6} million are the most") from error
    except PIL.UnidentifiedImageError as error:
        raise FvfastError(f"{name} is not a picture: there are {', '.join(FORMATS)}") from error
    except Exception as error:  # decoders fail in every way there is
        raise FvfastError(f"{name} is damaged and cannot be read as a picture") from error
    kind = "JPEG" if kind == "MPO" else kind
    return Upload(name, data, hashlib.sha256(data).hexdigest(), FORMATS.get(kind, ".png"), width, height)


def plain_name(name: str) -> str:
    """A name without folders, control characters or surprises."""
    last = PurePath(name.replace("\\", "/")).name
    return re.sub(r"[^\w.() -]+", "_", last).lstrip(".-")[-80:] or "picture"
