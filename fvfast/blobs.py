"""Images as bytes, and files named after their content: whole or not there, whatever happens meanwhile."""

from __future__ import annotations

import hashlib
import io
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import PIL.Image
from PIL import PngImagePlugin

from fvfast.errors import FvfastError
from fvfast.files import CHUNK, SOFTWARE, text_of

FORMATS = ("png", "webp")
THUMBNAIL = 96  # pixels of a thumbnail's longer side
TEMPORARY = ".fvfast-"  # what names of unfinished files begin with
FOLDERS = ("images", "thumbnails", "examples", "snapshots")


def encode(image: PIL.Image.Image, format: str, spec: dict[str, Any] | None = None) -> bytes:
    """A lossless PNG, which carries `spec` as `fvfast.files` writes it, or a lossless WebP."""
    buffer = io.BytesIO()
    if format == "png":
        info = PngImagePlugin.PngInfo()
        info.add_text("Software", SOFTWARE)
        if spec is not None:
            info.add_text(CHUNK, text_of(spec))
        image.save(buffer, format="PNG", pnginfo=info)
    elif format == "webp":
        image.save(buffer, format="WEBP", lossless=True, method=4)
    else:
        raise FvfastError(f"unknown image format {format!r}; there are {', '.join(FORMATS)}")
    return buffer.getvalue()


def thumbnail(image: PIL.Image.Image, side: int = THUMBNAIL) -> bytes:
    """A small WebP of an image, `side` pixels at most."""
    small = image.convert("RGB")
    small.thumbnail((side, side), PIL.Image.Resampling.LANCZOS)
    buffer = io.BytesIO()
    small.save(buffer, format="WEBP", quality=82, method=4)
    return buffer.getvalue()


def snapshot(image: PIL.Image.Image) -> bytes:
    """A WebP that looks like the image and takes a tenth of the room: one of many on the way to a render."""
    buffer = io.BytesIO()
    image.convert("RGB").save(buffer, format="WEBP", quality=90, method=4)
    return buffer.getvalue()


def address(folder: str, data: bytes, suffix: str) -> str:
    """Where `data` belongs in a store: `images/ab/ab....png`, by its SHA-256."""
    digest = hashlib.sha256(data).hexdigest()
    return f"{folder}/{digest[:2]}/{digest}.{suffix}"


def is_whole(path: Path) -> bool:
    """Whether a file holds what its name says."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest() == path.stem


def put(root: Path, relative: str, data: bytes) -> None:
    """Write a file under a temporary name, see it onto the disk, then give it its own. Raises OSError."""
    path = root / relative
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=TEMPORARY)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(temporary, 0o644)
        os.replace(temporary, path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


def settle(root: Path, relatives: set[str]) -> None:
    """See the names of files onto the disk too, so that no row outlives its file when the power fails."""
    if not hasattr(os, "O_DIRECTORY"):
        return
    for folder in {(root / relative).parent for relative in relatives}:
        handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def walk(root: Path) -> Iterator[tuple[str, bool]]:
    """Every file that a store holds beside its index: (path in the store, whether it is an unfinished one)."""
    for folder in FOLDERS:
        for parent, _, names in os.walk(root / folder):
            inside = Path(parent).relative_to(root).as_posix()
            for name in names:
                yield f"{inside}/{name}", name.startswith(TEMPORARY)
