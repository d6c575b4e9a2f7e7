"""What is written to disk: PNGs that carry their own recipe, and contact sheets."""

from __future__ import annotations

import contextlib
import json
import math
import os
import re
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

import PIL.Image
from PIL import ImageDraw, ImageFont, ImageOps, PngImagePlugin

import fvfast
from fvfast import planes
from fvfast.errors import FvfastError

if TYPE_CHECKING:
    from torch import Tensor

    from fvfast.result import Render

CHUNK = "fvfast"  # the text chunk's keyword
SOFTWARE = f"fvfast {fvfast.__version__}"

# The sheet's look: paper, ink and margins, in pixels for a 224 px image.
PAPER, INK, FAINT = planes.PAPER, planes.INK, (118, 118, 122)


def to_pil(image: Tensor, opacity: bool = False) -> PIL.Image.Image:
    """An image [C, H, W] in 0..1 as 8 bits, rounded to nearest: grey, RGB, or else its channels side by side.

    opacity: whether [4, H, W] are three colours and an opacity, as RGBA.
    """
    if not opacity and not planes.colours(len(image)):
        return planes.side_by_side(image)
    array = (image.clamp(0, 1) * 255).round().byte().permute(1, 2, 0).contiguous().numpy()
    return PIL.Image.fromarray(array[..., 0] if len(image) == 1 else array)


def to_mask(opacity: Tensor) -> PIL.Image.Image:
    """An opacity [H, W] in 0..1 as 8 bits."""
    return PIL.Image.fromarray((opacity * 255).round().byte().numpy())


def on_paper(picture: PIL.Image.Image) -> PIL.Image.Image:
    """A picture as it is or, where it is transparent, as RGB before the sheet's paper."""
    if picture.mode != "RGBA":
        return picture
    return PIL.Image.alpha_composite(PIL.Image.new("RGBA", picture.size, (*PAPER, 255)), picture).convert("RGB")


def writable(folder: Path, make: bool = False) -> Path:
    """See that files can be put into `folder`, before any work is done for it; make it only if told to."""
    there = folder.absolute()
    try:
        if make:
            folder.mkdir(parents=True, exist_ok=True)
        while not there.exists():  # a folder that is missing is made later, in the nearest that is there
            there = there.parent
        with tempfile.TemporaryFile(dir=there):
            pass
    except OSError as error:
        raise FvfastError(
            f"cannot write to the folder {folder} ({error.strerror}); choose another with --out"
        ) from error
    return folder


def save(render: Render, folder: Path, alpha: bool = False, snapshots: bool = True) -> list[Path]:
    """Write every image of a render, and its snapshots, whole or not at all. Returns the images' paths.

    An image is a PNG, in grey or RGB; of other channels it is a TIFF of one page a channel, with a PNG beside it that
    shows them side by side.

    alpha: make images transparent that know of an opacity, even where it was not asked for; snapshots: whether to
    write these too.
    """
    writable(folder, make=True)
    names = file_names(render.targets, render.seeds, render.model)
    paths = []
    rows = zip(names, render.images, render.alphas, render.specs, render.snapshots, strict=True)
    for name, image, opacity, spec, shots in rows:
        spec = {**spec, **_input(render)}
        # What is transparent by its recipe has colours that nobody is meant to see without their opacity.
        clear = to_mask(opacity) if opacity is not None and (alpha or spec["recipe"].get("alpha")) else None
        paths.append(_write(image, folder / name, spec, clear))
        for step, shot in shots if snapshots else []:
            snapshot = {**spec, "steps": step, "recipe": {**spec["recipe"], "steps": step}}
            colours, rest = shot.split([len(image), len(shot) - len(image)])
            path = writable(folder / "snapshots", make=True) / f"{name}-step{step:05d}"
            _write(colours, path, snapshot, to_mask(rest[0]) if len(rest) else None)
    return paths


def _input(render: Render) -> dict[str, Any]:
    """How the network's input is made of an image, which may have been said in Python, where no name says it."""
    network = render.network
    if network is None:
        return {}
    layouts = {"layouts": dict(network.layouts)} if network.layouts else {}
    return {"input": {"mean": list(network.mean), "std": list(network.std), "size": network.size, **layouts}}


def _write(image: Tensor, path: Path, spec: dict[str, Any], opacity: PIL.Image.Image | None) -> Path:
    """Write an image [C, H, W] under a path without its suffix; returns the whole one."""
    picture, whole_path = to_pil(image), path.parent / f"{path.name}.png"
    if opacity is not None and planes.colours(len(image)):
        picture.putalpha(opacity)
    write_png(picture, whole_path, spec)
    if planes.colours(len(image)):
        return whole_path
    whole_path = path.parent / f"{path.name}{planes.SUFFIX}"
    with whole(whole_path) as file:
        file.write(planes.encode(image, text_of(spec), SOFTWARE, opacity))
    return whole_path


def file_names(targets: Sequence[str], seeds: Sequence[int], model: str) -> list[str]:
    """One name an image, unlike one another: model, target, and the seed where it is not 0."""
    names: list[str] = []
    for target, seed in zip(targets, seeds, strict=True):
        plain = re.sub(r"[^A-Za-z0-9_.@-]+", "-", f"{model}-{target}").strip("-")[:120]
        base = f"{plain}-seed{seed}" if seed else plain
        name, count = base, 2
        while name in names:
            name, count = f"{base}-{count}", count + 1
        names.append(name)
    return names


def write_png(image: PIL.Image.Image, path: Path, spec: dict[str, Any] | None = None) -> None:
    """Write a PNG that carries `spec` as a text chunk; under a temporary name first, so never half a file."""
    info = PngImagePlugin.PngInfo()
    info.add_text("Software", SOFTWARE)
    if spec is not None:
        info.add_text(CHUNK, text_of(spec))
    with whole(path) as file:
        image.save(file, format="PNG", pnginfo=info)


def text_of(spec: dict[str, Any]) -> str:
    """What a file says of how to render it again: JSON, ASCII."""
    return json.dumps({"version": fvfast.__version__, **spec}, sort_keys=True)


@contextlib.contextmanager
def whole(path: Path) -> Iterator[BinaryIO]:
    """A file to write to that appears as `path` once it is complete, and not at all if that fails."""
    temporary = None
    try:
        handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=".fvfast-", suffix=path.suffix)
        with os.fdopen(handle, "wb") as file:
            yield file
        os.chmod(temporary, 0o666 & ~_umask())
        os.replace(temporary, path)
    except BaseException as error:
        if temporary:
            Path(temporary).unlink(missing_ok=True)
        if isinstance(error, OSError):
            raise FvfastError(f"cannot write {path} ({error.strerror}); choose another folder with --out") from error
        raise


def read_spec(path: Path) -> dict[str, Any]:
    """What a PNG or a TIFF written here says of how to render it again. Raises FvfastError where it says nothing.

    "input" has the network's mean, std and size, and is not in files of stores and of earlier versions.
    """
    try:
        with PIL.Image.open(path) as image:
            image.load()
            text = image.info.get(CHUNK) or planes.described(image)
    except FileNotFoundError as error:
        raise FvfastError(f"no file {path}") from error
    except (OSError, SyntaxError) as error:
        raise FvfastError(f"{path} is not a readable PNG") from error
    if text is None:
        raise FvfastError(f"{path} carries no fvfast recipe: only PNGs that fvfast wrote can be rendered again")
    try:
        spec = json.loads(text)
        found = {key: spec[key] for key in ("model", "weights", "target", "seed", "size", "dtype", "recipe")}
        return found | ({"input": spec["input"]} if "input" in spec else {})
    except (json.JSONDecodeError, KeyError, TypeError) as error:
        raise FvfastError(f"the recipe in {path} cannot be read; it may be from another version") from error


def sheet(
    images: Sequence[PIL.Image.Image],
    titles: Sequence[str],
    captions: Sequence[str],
    columns: int | None = None,
    tile: int = 224,
) -> PIL.Image.Image:
    """Images on a grid, `tile` pixels wide each, a title and a fainter caption under each."""
    count = len(images)
    columns = columns or min(count, max(1, math.ceil(math.sqrt(count * 1.6))))
    columns = math.ceil(count / math.ceil(count / columns))  # as even as the rows allow
    rows = math.ceil(count / columns)
    margin, gap, text = round(tile * 0.09), round(tile * 0.07), round(tile * 0.2)
    title_font, caption_font = (ImageFont.load_default(round(tile * part)) for part in (0.066, 0.056))
    width = 2 * margin + columns * tile + (columns - 1) * gap
    height = 2 * margin + rows * (tile + text) + (rows - 1) * gap - round(text * 0.2)
    page = PIL.Image.new("RGB", (width, height), PAPER)
    draw = ImageDraw.Draw(page)
    for i, (image, title, caption) in enumerate(zip(images, titles, captions, strict=True)):
        x = margin + (i % columns) * (tile + gap)
        y = margin + (i // columns) * (tile + text + gap)
        if image.width == image.height:
            page.paste(image.resize((tile, tile), PIL.Image.Resampling.LANCZOS), (x, y))
        else:  # channels side by side
            page.paste(ImageOps.pad(image, (tile, tile), PIL.Image.Resampling.LANCZOS, PAPER, (0.5, 1)), (x, y))
        below = y + tile + round(tile * 0.025)
        draw.text((x, below), _fit(draw, title, title_font, tile), INK, font=title_font)
        draw.text(
            (x, below + round(tile * 0.085)),
            _fit(draw, caption, caption_font, tile),
            FAINT,
            font=caption_font,
        )
    return page


def _fit(draw: ImageDraw.ImageDraw, text: str, font: Any, width: int) -> str:
    """`text`, shortened from the front where it is wider than `width`: a target's channel stands at its end."""
    if draw.textlength(text, font=font) <= width:
        return text
    while text and draw.textlength("…" + text, font=font) > width:
        text = text[1:]
    return "…" + text


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
