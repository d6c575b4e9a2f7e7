"""The command line of the classic systems: `fvfast dream` and `fvfast magnitude`."""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from fvfast.cli_json import Json, tell
from fvfast.cli_layouts import Layout, laid_out
from fvfast.errors import FvfastError
from fvfast.screen import Screen

if TYPE_CHECKING:
    from collections.abc import Iterator

    from torch import Tensor

    from fvfast.dream_animations import DreamtAnimation
    from fvfast.dreaming import Dream, Dreamer, DreamProgress
    from fvfast.photographs import Photograph

INTERRUPTED = 130
VIDEO_SIDE = 640  # pixels of a zoom's longer side: each of its frames is dreamt over


def dream(
    image: Annotated[
        Path, typer.Argument(help="The photograph: JPEG, PNG, WebP, TIFF, GIF, ...; all frames of an animation.")
    ],
    model: Annotated[str, typer.Argument(help="As for `render`.")] = "efficientnet_lite0",
    target: Annotated[
        list[str] | None,
        typer.Argument(help="LAYER, LAYER:CHANNEL, ... as for `render`; several are balanced. Default: the preset's."),
    ] = None,
    preset: Annotated[str, typer.Option(help="creatures, garden, patterns or engraving.")] = "creatures",
    out: Annotated[Path | None, typer.Option(help="File to write (default: NAME-dream, in the same format).")] = None,
    basis: Annotated[str | None, typer.Option(help="What ascends: pixel or fourier.")] = None,
    octaves: Annotated[int | None, typer.Option(help="Scales, coarse to fine (default: by the size).")] = None,
    scale: Annotated[float | None, typer.Option(help="From one octave to the next.")] = None,
    steps: Annotated[int | None, typer.Option(help="Steps at each octave.")] = None,
    strength: Annotated[float | None, typer.Option(help="Mean change of a colour in a step, 0-1.")] = None,
    jitter: Annotated[int | None, typer.Option(help="Largest shift of what the network sees, px.")] = None,
    guide: Annotated[Path | None, typer.Option(help="Picture whose features to look for (whole layers).")] = None,
    tile: Annotated[int, typer.Option(help="Longest side through the network at once, px; bounds the memory.")] = 512,
    seed: Annotated[int, typer.Option(help="Seed of the shifts.")] = 0,
    zoom: Annotated[Path | None, typer.Option(help="Also fall into the dream: a .mp4, .gif or .webp.")] = None,
    frames: Annotated[int, typer.Option(help="Frames of the zoom.")] = 60,
    device: Annotated[str | None, typer.Option(help="cpu, cuda, cuda:1, ... (default: a GPU if there is one).")] = None,
    dtype: Annotated[str | None, typer.Option(help="float32, bfloat16 or float16.")] = None,
    weights: Annotated[str, typer.Option(help="none (random), default, or a FILE.")] = "default",
    layout: Layout = None,
    as_json: Json = False,
) -> None:
    """DeepDream: change a photograph towards what a network sees in it."""
    from fvfast import animations, photographs, video
    from fvfast.dream_animations import over
    from fvfast.dreaming import SMALLEST, Dreamer, preset_with

    settings = preset_with(
        preset, basis=basis, octaves=octaves, scale=scale, steps=steps, strength=strength, jitter=jitter
    )
    for name, value, least in (("seed", seed, 0), ("frames", frames, 1)):
        if value < least:
            raise FvfastError(f"{name} must be {least} or more, not {value}")
    moving = animations.find(image)
    photograph = photographs.read(image) if moving is None else moving.first()
    height, width = photograph.image.shape[-2:]
    if min(height, width) < SMALLEST:
        raise FvfastError(f"{image} must be {SMALLEST} px or more on each side, not {width}x{height}")
    out = Path(f"{image.stem}-dream{_suffix(image, photograph)}") if out is None else out
    photographs.format_of(out, photograph)
    if moving is not None:
        animations.check(out, moving)
        if zoom is not None:
            raise FvfastError(f"a zoom falls into one picture and {image} has {len(moving)} frames: leave out --zoom")
    for path in (out, zoom):
        if path is not None:
            _writable(path, image)
    if zoom is not None:
        video.check(zoom)
    network, weights = laid_out(model, weights, layout)
    with (
        Dreamer(network, target, settings, guide, tile, seed, device, dtype, weights) as dreamer,
        Screen(quiet=as_json, unit="octaves" if moving is None else "frames") as screen,
    ):
        for sentence in dreamer.precision.notes:
            screen.notify(sentence)
        count = 0
        if moving is not None:
            result = over(dreamer, moving, lambda *at: _show_frame(screen, dreamer, *at), screen.stopped)
            done, wrote = len(result.pictures), f"{len(result.pictures)} of {len(moving)} frames"
        else:
            result = dreamer.dream(photograph, lambda p: _show(screen, p), screen.stopped)
            done, wrote = 1, "the dream as far as it had come"
        result.save(out)
        if zoom is not None and not result.interrupted:
            count = video.write(_falling(dreamer, result.photograph.image, frames, screen), zoom)
        interrupted = screen.interrupted
    _say(result, out, done, 1 if moving is None else len(moving), zoom if count else None, count, as_json)
    if interrupted:
        print(f"fvfast: interrupted; wrote {wrote}", file=sys.stderr)
        raise typer.Exit(INTERRUPTED)


def _suffix(image: Path, photograph: Photograph) -> str:
    """What a default output ends in: as the input's name, where that says its format."""
    import PIL.Image

    PIL.Image.init()
    same = PIL.Image.EXTENSION.get(image.suffix.lower()) == photograph.format
    return image.suffix if same else photograph.suffix


def _writable(path: Path, source: Path) -> None:
    """See that a file can be written, and is not the photograph itself."""
    from fvfast import files

    if path.is_dir():
        raise FvfastError(f"{path} is a folder: name a file")
    if path.exists() and source.exists() and path.samefile(source):
        raise FvfastError(f"{path} is the photograph itself: name another file with --out")
    if not path.absolute().parent.is_dir():
        raise FvfastError(f"no folder {path.parent} to write {path.name} in")
    files.writable(path.absolute().parent)


def _show(screen: Screen, progress: DreamProgress) -> None:
    count = f"{progress.octave}/{progress.octaves}"
    screen.show(progress.pixels_done, progress.pixels_total, count, progress.steps_done, progress.value)


def _show_frame(screen: Screen, dreamer: Dreamer, number: int, total: int, progress: DreamProgress) -> None:
    """number: of the frame, from 1. Each is counted as if it took as many steps and pixels as this one."""
    before = number - 1
    pixels = before * progress.pixels_total + progress.pixels_done
    steps = before * progress.octaves * dreamer.settings.steps + progress.steps_done
    screen.show(pixels, total * progress.pixels_total, f"{number}/{total}", steps, progress.value)


def _falling(dreamer: Dreamer, image: Tensor, frames: int, screen: Screen) -> Iterator[Tensor]:
    """The zoom's frames, until there are enough or the user has."""
    from fvfast.dreaming import resize

    scale = min(1.0, VIDEO_SIDE / max(image.shape[-2:]))
    small = resize(image, (round(image.shape[-2] * scale), round(image.shape[-1] * scale)))
    for done, frame in enumerate(dreamer.zoom(small, frames), 1):
        screen.show(done, frames, f"frame {done}/{frames}, all", done, float("nan"))
        yield frame
        if screen.stopped():
            return


def _say(
    result: Dream | DreamtAnimation,
    out: Path,
    done: int,
    total: int,
    zoom: Path | None,
    falling: int,
    as_json: bool,
) -> None:
    """done, total: frames of the picture; falling: frames of the zoom."""
    from fvfast.tables import figure

    height, width = result.photograph.image.shape[-2:]
    document: dict[str, Any] = {
        "model": result.model,
        "targets": result.targets,
        "file": str(out),
        "width": width,
        "height": height,
        "frames": done,
        "frames_total": total,
        "octaves": len(result.sizes),
        "steps": result.steps,
        "objective_start": result.objective_start,
        "objective_end": result.objective,
        "device": result.device,
        "dtype": result.dtype,
        "dtype_why": result.dtype_why,
        "seconds": round(result.seconds, 3),
        "interrupted": result.interrupted,
        "zoom": None if zoom is None else {"file": str(zoom), "frames": falling},
    }
    if as_json:
        tell(document)
        return
    print(f"{', '.join(result.targets)}: {figure(result.objective_start)} to {figure(result.objective)}")
    count = f"{done} of {total} frames, " if total > 1 else ""
    print(
        f"{out}, {width}x{height}, {count}{len(result.sizes)} octaves, {result.steps} steps in {result.seconds:.1f} s "
        f"on {result.device}, {result.dtype}"
    )
    if zoom is not None:
        print(f"{zoom}, {falling} frames")


def magnitude(
    folder: Annotated[Path, typer.Argument(help="Pictures to measure, in this folder and those within it.")],
    out: Annotated[Path, typer.Option(help="File to write.")] = Path("magnitude.safetensors"),
    size: Annotated[int, typer.Option(help="Size at which pictures are measured, px.")] = 256,
    as_json: Json = False,
) -> None:
    """Measure the mean Fourier magnitudes of one's own pictures, for `render --image phase --magnitude FILE`."""
    from fvfast import magnitudes

    if not 16 <= size <= 2048:
        raise FvfastError(f"size must be 16 to 2048 px, not {size}")
    _writable(out, folder)
    started = time.perf_counter()
    with Screen(quiet=as_json, unit="pictures") as screen:

        def show(done: int, total: int) -> None:
            screen.show(done, total, f"{done}/{total}", done, float("nan"))
            if screen.stopped():
                raise KeyboardInterrupt

        measured, count = magnitudes.measure(folder, size, show, screen.notify)
    magnitudes.write(measured, out)
    seconds = round(time.perf_counter() - started, 3)
    if as_json:
        tell({"file": str(out), "pictures": count, "size": size, "seconds": seconds})
    else:
        print(f"{out}: the mean of {count} pictures at {size} px, in {seconds:.1f} s")
