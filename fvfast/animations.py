"""Pictures of several frames as files: GIF, WebP and PNG with the time that each frame is shown, and TIFF's pages."""

from __future__ import annotations

import io
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise
from pathlib import Path

import PIL.Image
from PIL import ImageOps

from fvfast import files, photographs
from fvfast.errors import FvfastError
from fvfast.photographs import Photograph

MOVING = ("GIF", "WEBP", "PNG")  # what says how long a frame is shown
PAGES = "TIFF"  # what holds several pictures, and no times
PAGE_MS = 100.0  # for how long a page is shown where it becomes a frame
CENTISECOND = 10  # ms; a GIF's unit of time


@dataclass(frozen=True)
class Frame:
    """One frame of an animation. duration: for how long it is shown, in ms; None for a page."""

    photograph: Photograph
    duration: float | None


@dataclass(frozen=True)
class Animation:
    """A picture with several frames, which are read one at a time.

    source: its file, or a PIL image. name: for people. format: Pillow's name of the file's format.
    indices: of the frames within the file. sizes: (width, height) of them, one where all are alike.
    plays: how many times it is shown, 0 for ever.
    """

    source: str | os.PathLike[str] | PIL.Image.Image
    name: str
    format: str
    indices: tuple[int, ...]
    sizes: frozenset[tuple[int, int]]
    plays: int

    def __len__(self) -> int:
        return len(self.indices)

    def frames(self) -> Iterator[Frame]:
        """The frames in order. Raises FvfastError where one cannot be read."""
        if isinstance(self.source, PIL.Image.Image):
            before = self.source.tell()
            for index in self.indices:
                yield self._frame(self.source, index)
            self.source.seek(before)
            return
        with photographs.readable(self.name):
            file = PIL.Image.open(self.source)
        with file:
            for index in self.indices:
                yield self._frame(file, index)

    def first(self) -> Photograph:
        """The first frame. Raises FvfastError where it cannot be read."""
        return next(self.frames()).photograph

    def _frame(self, file: PIL.Image.Image, index: int) -> Frame:
        with photographs.readable(self.name):
            file.seek(index)
            file.load()  # a WebP knows the duration of a frame only then
            duration = None if self.format == PAGES else float(file.info.get("duration", 0))
            return Frame(photographs.decoded(file, self.format), duration)


def find(source: photographs.Source) -> Animation | None:
    """The animation in a file or a PIL image; None for a picture of one frame, and for what is no such thing."""
    if isinstance(source, PIL.Image.Image):
        with photographs.readable("the PIL image"):
            return _found(source, source, "the PIL image")
    if not isinstance(source, str | os.PathLike):
        return None
    with photographs.readable(source), PIL.Image.open(source) as file:
        return _found(file, source, os.fspath(source))


def _found(picture: PIL.Image.Image, source: str | os.PathLike[str] | PIL.Image.Image, name: str) -> Animation | None:
    indices = photographs.frames_of(picture, name)
    if len(indices) == 1:
        return None
    before, sizes = picture.tell(), set()
    for index in indices if picture.format == PAGES else indices[:1]:
        picture.seek(index)
        sizes.add(ImageOps.exif_transpose(picture).size)
    plays = _plays(picture)
    picture.seek(before)
    return Animation(source, name, picture.format or "", tuple(indices), frozenset(sizes), plays)


def _plays(picture: PIL.Image.Image) -> int:
    """How many times an animation is shown. A GIF counts repetitions, and is shown once where it says nothing."""
    if picture.format != "GIF":
        return int(picture.info.get("loop", 0))
    if "loop" not in picture.info:
        return 1
    repeated = int(picture.info["loop"])
    return repeated + 1 if repeated else 0


def check(path: Path, animation: Animation) -> None:
    """See that an animation can be written under this name, before any work is done. Raises FvfastError."""
    kind = photographs.format_of(path)
    count = f"{animation.name} has {len(animation)} frames"
    if kind not in (*MOVING, PAGES):
        raise FvfastError(f"{kind} holds one picture and {count}: name a .gif, .webp or .png with --out")
    if kind == PAGES and animation.format != PAGES:
        raise FvfastError(f"TIFF does not say for how long a frame is shown: name a .gif, .webp or .png, as {count}")
    if kind != PAGES and len(animation.sizes) > 1:
        raise FvfastError(
            f"the pages of {animation.name} differ in size, which only TIFF holds: name a .tif with --out"
        )


def write(
    pictures: Sequence[PIL.Image.Image],
    durations: Sequence[float | None],
    first: Photograph,
    plays: int,
    path: Path,
) -> None:
    """Write frames, RGB or RGBA, in the format that the file's name asks for; whole, or not at all.

    durations: of each in ms, None for a page. first: the first frame, with what its file says besides its pixels.
    """
    kind = photographs.format_of(path)
    options = photographs.saving(first, kind)
    if kind in MOVING:
        options["duration"] = _durations([PAGE_MS if ms is None else ms for ms in durations], kind)
        if kind != "GIF":
            options["loop"] = plays
        elif plays != 1:
            options["loop"] = plays and plays - 1
        if kind == "GIF" and any(picture.mode == "RGBA" for picture in pictures):
            options["disposal"] = 2  # else what was there before would be seen through a frame
    written = io.BytesIO()  # a TIFF of several pages is read while it is written
    pictures[0].save(written, format=kind, save_all=True, append_images=pictures[1:], **options)
    with files.whole(path) as file:
        file.write(written.getbuffer())


def _durations(exact: Sequence[float], kind: str) -> list[int]:
    """For how long each frame is shown, in a format's units; what is rounded off one frame goes to the next."""
    unit = CENTISECOND if kind == "GIF" else 1
    ends = [0, *(round(end / unit) * unit for end in accumulate(exact))]
    return [end - begin for begin, end in pairwise(ends)]
