"""Pictures from files and from Python: read upright, with what a file says besides its pixels, and written back alike.

`take` is the only door: whatever accepts a picture accepts what it does.
"""

from __future__ import annotations

import contextlib
import os
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeAlias

import numpy as np
import PIL.Image
import torch
import torch.nn.functional as F
from PIL import ImageOps
from torch import Tensor

from fvfast import files, pixels, planes
from fvfast.channels import counted
from fvfast.errors import FvfastError

# How each format is written: as good as it gets without growing out of proportion.
SAVING: dict[str, dict[str, object]] = {
    "JPEG": {"quality": 95, "subsampling": 0},
    "WEBP": {"quality": 95},
    "PNG": {},
    "TIFF": {"compression": "tiff_lzw"},
    "BMP": {},
    "GIF": {},
}
OPAQUE = ("JPEG", "BMP")  # what holds no transparency
# ITU-R BT.601 luma
LUMA = (0.299, 0.587, 0.114)
WITH_EXIF = ("JPEG", "PNG", "WEBP", "TIFF")
# Whose further frames are not for showing one after another: the previews of a camera, and layers.
ONE_PICTURE = ("MPO", "PSD")
SUBFILE_TYPE, REDUCED = 254, 1  # a TIFF's tag, and its bit that says that a page is the small copy of another


@dataclass(frozen=True)
class Photograph:
    """A picture and what its file says of it.

    image: [3, H, W] float32 in 0..1, upright. alpha: "L", or None where it is opaque throughout.
    format: Pillow's name of the file's format. exif: without its orientation, which is in the pixels now.
    profile: the colour profile, if it belongs to RGB values.
    """

    image: Tensor
    alpha: PIL.Image.Image | None = None
    format: str = "PNG"
    exif: bytes = b""
    profile: bytes | None = None

    @property
    def suffix(self) -> str:
        """What the name of such a file ends in."""
        return {"JPEG": ".jpg", "TIFF": ".tif"}.get(self.format, f".{self.format.lower()}")

    def with_image(self, image: Tensor) -> Photograph:
        """The same photograph with other pixels, [3, H, W] in 0..1."""
        return replace(self, image=image)


Source: TypeAlias = str | os.PathLike[str] | PIL.Image.Image | np.ndarray | Tensor | Photograph


def take(source: Source) -> Photograph:
    """A picture from wherever it comes.

    source: a file; a PIL image of any mode, turned upright as its EXIF says; an array or a tensor, [H, W], or with 1, 3
        or 4 channels first or last, the fourth an opacity, or one such in a batch of one; or a Photograph.
        uint8, uint16 and bool mean their own range, other integers 0..255 (0..65535 where the largest is above 255),
        floating point 0..1 (0..255 where the largest is above 1); see `pixels.scaled`.
    Raises FvfastError where it is none, where its values or its layout can be read in two ways, and where it is an
    animation: a PIL image of one is taken as the frame that it was sought to, unless that is the first.
    """
    if isinstance(source, Photograph):
        return source
    if isinstance(source, PIL.Image.Image):
        with readable("the PIL image"):
            if source.tell() == 0:
                refuse_several("the PIL image", frames_of(source, "the PIL image"))
            source.load()
            return decoded(source, source.format or "")
    if isinstance(source, np.ndarray | Tensor):
        return _numbers(source)
    if isinstance(source, str | os.PathLike):
        return read(source)
    raise FvfastError(f"a picture must be a path, a PIL image, an array or a tensor, not {type(source).__name__}")


def read(path: str | os.PathLike[str]) -> Photograph:
    """Read a photograph. Raises FvfastError where there is none, no picture in it, or more than one."""
    with readable(path), PIL.Image.open(path) as file:
        frames = frames_of(file, path)
        refuse_several(path, frames)
        file.seek(frames[0])
        file.load()
        return decoded(file, file.format or "")


def frames_of(picture: PIL.Image.Image, name: str | os.PathLike[str]) -> list[int]:
    """Which of a PIL image's frames, or pages, are shown one after another; where it stands stays the same.

    Raises FvfastError where its pages are the channels of a render.
    """
    if planes.described(picture) is not None:
        raise FvfastError(
            f"{name} is no photograph, since its pages are the {getattr(picture, 'n_frames', 1)} channels of a render: "
            "give it as the start of a render or as the picture of an objective"
        )
    count = getattr(picture, "n_frames", 1)
    if count == 1 or picture.format in ONE_PICTURE:
        return [0]
    if picture.format == "TIFF":
        return _pages(picture, count)
    # A PNG may have a picture in front of its frames, for programs that know of no animations.
    return list(range(1 if picture.info.get("default_image") else 0, count))


def _pages(picture: PIL.Image.Image, count: int) -> list[int]:
    """A TIFF's pages that are no small copies of others."""
    before = picture.tell()
    pages = []
    for page in range(count):
        picture.seek(page)
        if not int(getattr(picture, "tag_v2", {}).get(SUBFILE_TYPE, 0)) & REDUCED:
            pages.append(page)
    picture.seek(before)
    return pages or [0]


def refuse_several(name: str | os.PathLike[str], frames: Sequence[int]) -> None:
    """Raise FvfastError where a picture has several frames: which of them is meant, nobody has said."""
    if len(frames) > 1:
        raise FvfastError(
            f"{name} has {len(frames)} frames and one picture is needed: give one of them by itself (`fvfast dream` "
            "and fvfast.dream_animation take them all)"
        )


@contextlib.contextmanager
def readable(name: str | os.PathLike[str]) -> Iterator[None]:
    """Within it, whatever keeps a picture from being read is a FvfastError. name: how the picture is called."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Pillow warns of large pictures and odd EXIF, which are no fault here
            yield
    except FvfastError:
        raise
    except FileNotFoundError as error:
        raise FvfastError(f"no file {name}") from error
    except IsADirectoryError as error:
        raise FvfastError(f"{name} is a folder, not a picture") from error
    except PIL.UnidentifiedImageError as error:
        raise FvfastError(f"{name} is not a picture that can be read") from error
    except PIL.Image.DecompressionBombError as error:
        raise FvfastError(f"{name} is too large to be read as a picture ({error})") from error
    except (OSError, SyntaxError, ValueError, EOFError) as error:
        raise FvfastError(f"{name} cannot be read as a picture ({error})") from error


def decoded(picture: PIL.Image.Image, kind: str) -> Photograph:
    """The photograph in a PIL image that is loaded. kind: Pillow's name of its file's format."""
    if 0 in picture.size:
        raise FvfastError(f"a picture of {picture.width}x{picture.height} px is empty: give one with pixels")
    picture = ImageOps.exif_transpose(picture)
    if picture.mode in ("La", "RGBa"):  # which Pillow takes to nothing else
        picture = picture.convert({"La": "LA", "RGBa": "RGBA"}[picture.mode])
    if picture.mode == "I" and kind == "PNG":  # as older Pillows read 16 bits
        picture = picture.convert("I;16")
    # A profile describes the numbers it came with: after a conversion from CMYK or grey it would be wrong.
    profile = picture.info.get("icc_profile") if picture.mode in ("RGB", "RGBA", "P") else None
    return Photograph(
        image=to_tensor(picture),
        alpha=_unless_opaque(picture.convert("RGBA").getchannel("A")) if picture.has_transparency_data else None,
        format=kind if kind in SAVING else "JPEG" if kind == "MPO" else "PNG",
        exif=picture.getexif().tobytes() if picture.getexif() else b"",
        profile=profile,
    )


def _numbers(numbers: np.ndarray | Tensor) -> Photograph:
    planes = pixels.channels(numbers)
    alpha = _unless_opaque(files.to_mask(planes[3])) if len(planes) == 4 else None
    return Photograph(_colours(planes), alpha)


def _colours(planes: Tensor) -> Tensor:
    """Grey as three equal channels; colours without their opacity."""
    return planes[:3].expand(3, -1, -1).contiguous()


def _unless_opaque(alpha: PIL.Image.Image) -> PIL.Image.Image | None:
    return None if alpha.getextrema() == (255, 255) else alpha


def to_tensor(picture: PIL.Image.Image) -> Tensor:
    """A picture as [3, H, W] float32 in 0..1."""
    if picture.mode.startswith(("I", "F")):
        return _colours(pixels.channels(np.asarray(picture)))
    array = np.array(picture.convert("RGB"))  # [H, W, 3]
    return torch.from_numpy(array).permute(2, 0, 1).float().div_(255)


def planes_of(source: Source) -> Tensor:
    """A picture by its channels, [C, H, W] float32 in 0..1: as `take`, which gives three.

    And of an array or a tensor all channels that it has, first or last; of a TIFF that a render was written to, its
    pages. Raises FvfastError.
    """
    if isinstance(source, np.ndarray | Tensor):
        return pixels.channels(source, several=True)
    if isinstance(source, PIL.Image.Image) and source.tell() == 0:
        with readable("the PIL image"):
            channels = planes.read(source)
            source.seek(0)
        if channels is not None:
            return channels
    if isinstance(source, str | os.PathLike):
        unreadable = (OSError, SyntaxError, ValueError, PIL.Image.DecompressionBombError)  # `take` says why
        with contextlib.suppress(*unreadable), warnings.catch_warnings(action="ignore"):
            with PIL.Image.open(source) as file:
                channels = planes.read(file)
            if channels is not None:
                return channels
    return take(source).image


def with_channels(image: Tensor, channels: int) -> Tensor:
    """A picture [c, H, W] with as many channels as a network's images, [C, H, W]. Raises FvfastError.

    Colours become their luminance where the network takes one channel, and grey all three where it takes three.
    """
    if len(image) == channels:
        return image
    if len(image) == 4 and channels in (1, 3):  # an opacity
        return with_channels(image[:3], channels)
    if (len(image), channels) == (3, 1):
        return torch.einsum("c,chw->hw", torch.tensor(LUMA).to(image), image)[None]
    if (len(image), channels) == (1, 3):
        return image.expand(3, -1, -1)
    raise FvfastError(
        f"the picture has {counted(len(image))}, and this network's images have {channels}: give a picture of "
        f"{counted(channels)}"
    )


def square(image: Tensor, size: int) -> Tensor:
    """The middle of a picture [C, H, W] as a square of `size` pixels, [C, size, size]."""
    height, width = image.shape[-2:]
    side = min(height, width)
    top, left = (height - side) // 2, (width - side) // 2
    middle = image[:, top : top + side, left : left + side]
    if side == size:
        return middle
    resized = F.interpolate(middle[None], (size, size), mode="bicubic", antialias=side > size, align_corners=False)
    return resized[0].clamp(0, 1)


def format_of(path: Path, photograph: Photograph | None = None) -> str:
    """The format that a file's name asks for. Raises FvfastError where it cannot be written, or not whole."""
    PIL.Image.init()
    kind = PIL.Image.EXTENSION.get(path.suffix.lower())
    if kind not in SAVING:
        known = ".jpg, .png, .webp, .tif, .bmp or .gif"
        raise FvfastError(f"cannot tell a picture's format from the name {path}: end it in {known}")
    if photograph is not None and photograph.alpha is not None and kind in OPAQUE:
        raise FvfastError(f"{kind} holds no transparency, and the photograph has some: name a .png with --out")
    return kind


def write(photograph: Photograph, path: Path) -> None:
    """Write a photograph in the format that the file's name asks for; whole, or not at all."""
    kind = format_of(path, photograph)
    picture, options = to_pil(photograph), saving(photograph, kind)
    with files.whole(path) as file:
        picture.save(file, format=kind, **options)


def to_pil(photograph: Photograph) -> PIL.Image.Image:
    """A photograph in 8 bits, RGB or RGBA."""
    picture = files.to_pil(photograph.image)
    if photograph.alpha is not None:
        picture.putalpha(photograph.alpha)
    return picture


def saving(photograph: Photograph, kind: str) -> dict[str, object]:
    """How Pillow is told to write a photograph in a format, with what its file said."""
    options = dict(SAVING[kind])
    if photograph.profile:
        options["icc_profile"] = photograph.profile
    if photograph.exif and kind in WITH_EXIF:
        options["exif"] = photograph.exif
    return options
