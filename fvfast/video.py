"""Frames written as a moving picture: MP4 through PyAV, GIF and WebP through Pillow."""

from __future__ import annotations

import importlib.util
import shutil
import tempfile
from collections.abc import Iterable, Iterator
from fractions import Fraction
from pathlib import Path

import PIL.Image
from torch import Tensor

from fvfast import files
from fvfast.errors import FvfastError

SUFFIXES = (".mp4", ".gif", ".webp")


def check(path: Path) -> None:
    """See that a moving picture can be written under this name, before any work is done. Raises FvfastError."""
    if path.suffix.lower() not in SUFFIXES:
        raise FvfastError(f"cannot tell a moving picture's format from the name {path}: end it in .mp4, .gif or .webp")
    if path.suffix.lower() == ".mp4" and importlib.util.find_spec("av") is None:
        raise FvfastError(f"{path} needs PyAV: pip install 'fvfast[video]' (.gif and .webp need nothing)")


def write(frames: Iterable[Tensor], path: Path, rate: int = 20) -> int:
    """Write frames [3, H, W] in 0..1, `rate` a second, whole or not at all. Returns how many there were."""
    check(path)
    pictures = map(files.to_pil, frames)
    return _write_mp4(pictures, path, rate) if path.suffix.lower() == ".mp4" else _write_pillow(pictures, path, rate)


def _write_pillow(pictures: Iterator[PIL.Image.Image], path: Path, rate: int) -> int:
    kept = list(pictures)
    options: dict[str, object] = {
        "save_all": True,
        "append_images": kept[1:],
        "duration": round(1000 / rate),
        "loop": 0,
    }
    if path.suffix.lower() == ".webp":
        options["quality"] = 85
    with files.whole(path) as file:
        kept[0].save(file, format=path.suffix[1:].upper(), **options)
    return len(kept)


def _write_mp4(pictures: Iterator[PIL.Image.Image], path: Path, rate: int) -> int:
    import av  # pyright: ignore[reportMissingImports] (an extra)

    count = 0
    # The index at an MP4's front is written last, which needs a file that can be sought in.
    with tempfile.TemporaryDirectory() as folder:
        draft = Path(folder) / "draft.mp4"
        with av.open(str(draft), "w") as container:
            stream = container.add_stream("libx264", rate=Fraction(rate), options={"crf": "18", "preset": "medium"})
            stream.pix_fmt = "yuv420p"  # what every player shows
            for picture in pictures:
                even = picture.crop((0, 0, picture.width // 2 * 2, picture.height // 2 * 2))
                if not count:
                    stream.width, stream.height = even.size
                container.mux(stream.encode(av.VideoFrame.from_image(even)))
                count += 1
            container.mux(stream.encode())
        with files.whole(path) as file, draft.open("rb") as finished:
            shutil.copyfileobj(finished, file)
    return count
