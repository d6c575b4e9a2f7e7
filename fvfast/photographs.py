"""Photographs as files: read upright, with what a file says besides its pixels, and written back alike."""

from __future__ import annotations

import warnings
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import PIL.Image
import torch
import torch.nn.functional as F
from PIL import ImageOps
from torch import Tensor

from fvfast import files, planes
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
LUMA = torch.tensor([0.299, 0.587, 0.114])
WITH_EXIF = ("JPEG", "PNG", "WEBP", "TIFF")


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


def read(path: str | Path) -> Photograph:
    """Read a photograph. Raises FvfastError where there is none, or no picture in it."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Pillow warns of large pictures and odd EXIF, which are no fault here
            with PIL.Image.open(path) as file:
                file.load()
                if planes.described(file) is not None:
                    raise FvfastError(f"{path} holds the channels of a rendered image, and is no photograph")
                kind = file.format or "PNG"
                upright = ImageOps.exif_transpose(file)
            return _photograph(upright, kind)
    except FileNotFoundError as error:
        raise FvfastError(f"no file {path}") from error
    except IsADirectoryError as error:
        raise FvfastError(f"{path} is a folder, not a picture") from error
    except PIL.UnidentifiedImageError as error:
        raise FvfastError(f"{path} is not a picture that can be read") from error
    except PIL.Image.DecompressionBombError as error:
        raise FvfastError(f"{path} is too large to be read as a picture ({error})") from error
    except (OSError, SyntaxError, ValueError) as error:
        raise FvfastError(f"{path} cannot be read as a picture ({error})") from error


def _photograph(picture: PIL.Image.Image, kind: str) -> Photograph:
    alpha = None
    if picture.has_transparency_data:
        alpha = picture.convert("RGBA").getchannel("A")
    # A profile describes the numbers it came with: after a conversion from CMYK or grey it would be wrong.
    profile = picture.info.get("icc_profile") if picture.mode in ("RGB", "RGBA", "P") else None
    return Photograph(
        image=to_tensor(picture),
        alpha=alpha,
        format=kind if kind in SAVING else "JPEG" if kind == "MPO" else "PNG",
        exif=picture.getexif().tobytes() if picture.getexif() else b"",
        profile=profile,
    )


def to_tensor(picture: PIL.Image.Image) -> Tensor:
    """A picture as [3, H, W] float32 in 0..1."""
    if picture.mode.startswith(("I", "F")):
        grey = np.asarray(picture, dtype=np.float32)
        grey = grey / (65535 if picture.mode.startswith("I") else max(1.0, float(grey.max())))
        return torch.from_numpy(grey).clamp(0, 1).expand(3, -1, -1).contiguous()
    array = np.array(picture.convert("RGB"))  # [H, W, 3]
    return torch.from_numpy(array).permute(2, 0, 1).float().div_(255)


def pixels(path: str | Path) -> Tensor:
    """The picture in a file, [3, H, W] float32 in 0..1; of a TIFF that a render was written to, [C, H, W].

    Raises FvfastError.
    """
    try:
        with warnings.catch_warnings(action="ignore"), PIL.Image.open(path) as file:
            channels = planes.read(file)
    except (OSError, SyntaxError, ValueError, PIL.Image.DecompressionBombError):
        channels = None  # `read` says why
    return read(path).image if channels is None else channels


def with_channels(image: Tensor, channels: int) -> Tensor:
    """A picture [c, H, W] with as many channels as a network's images, [C, H, W]. Raises FvfastError.

    Colours become their luminance where the network takes one channel, and grey all three where it takes three.
    """
    if len(image) == channels:
        return image
    if (len(image), channels) == (3, 1):
        return torch.einsum("c,chw->hw", LUMA.to(image), image)[None]
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


def format_of(path: Path, photograph: Photograph) -> str:
    """The format that a file's name asks for. Raises FvfastError where it cannot be written, or not whole."""
    PIL.Image.init()
    kind = PIL.Image.EXTENSION.get(path.suffix.lower())
    if kind not in SAVING:
        known = ".jpg, .png, .webp, .tif, .bmp or .gif"
        raise FvfastError(f"cannot tell a picture's format from the name {path}: end it in {known}")
    if photograph.alpha is not None and kind in OPAQUE:
        raise FvfastError(f"{kind} holds no transparency, and the photograph has some: name a .png with --out")
    return kind


def write(photograph: Photograph, path: Path) -> None:
    """Write a photograph in the format that the file's name asks for; whole, or not at all."""
    kind = format_of(path, photograph)
    picture = files.to_pil(photograph.image)
    if photograph.alpha is not None:
        picture.putalpha(photograph.alpha)
    options = dict(SAVING[kind])
    if photograph.profile:
        options["icc_profile"] = photograph.profile
    if photograph.exif and kind in WITH_EXIF:
        options["exif"] = photograph.exif
    with files.whole(path) as file:
        picture.save(file, format=kind, **options)
