"""The command line: `fvfast render`, `layers`, `models`, `doctor`, and those in the other `cli_` modules.

It holds no mathematics and imports torch late.
"""

from __future__ import annotations

import contextlib
import os
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from fvfast import cli_store
from fvfast.cli_activations import activation_atlas
from fvfast.cli_again import again
from fvfast.cli_atlas import Network, atlas, examples
from fvfast.cli_classics import dream, magnitude
from fvfast.cli_dashboard import dashboard
from fvfast.cli_json import Json, json_alone, tell, to_the_end
from fvfast.cli_layouts import Layout, laid_out
from fvfast.cli_look import doctor, layers, models
from fvfast.cli_quality import quality
from fvfast.cli_speed import speed
from fvfast.errors import FvfastError
from fvfast.screen import Screen

if TYPE_CHECKING:
    from rich.console import Console

    from fvfast.models import Model
    from fvfast.result import Render

BAD_INPUT, INTERRUPTED = 2, 130
_IMPORTED = time.perf_counter()

app = typer.Typer(
    name="fvfast",
    help="Feature visualisation, fast: see what a neuron, channel, layer or class of a network looks for.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)

Weights = Annotated[str, typer.Option(help="none (random), default, or a FILE (safetensors or plain checkpoint).")]


def main(arguments: list[str] | None = None) -> None:
    """Run the command line and exit: 0, 2 for bad input (one sentence on stderr), 130 when interrupted."""
    with to_the_end(for_good=arguments is None):
        code = _run(arguments)
    sys.exit(code)


def _run(arguments: list[str] | None) -> int:
    try:
        code = app(arguments, standalone_mode=False)
    except FvfastError as error:
        code = _complain(str(error))
    except KeyboardInterrupt:
        code = INTERRUPTED
    except Exception as error:
        # The parser's own errors; anything else is a bug and keeps its traceback.
        message = getattr(error, "format_message", None)
        if message is None:
            raise
        code = _complain(message()) if message() else INTERRUPTED
    return code if isinstance(code, int) else 0


def _complain(sentence: str) -> int:
    print(f"fvfast: {sentence}", file=sys.stderr)
    return BAD_INPUT


@app.callback(invoke_without_command=True)
def _root(
    version: Annotated[bool, typer.Option("--version", help="Show the version and exit.", is_eager=True)] = False,
) -> None:
    if version:
        from fvfast import __version__

        print(f"fvfast {__version__}")
        raise typer.Exit


# render ----------------------------------------------------------------------------------------------------


@app.command()
@json_alone
def render(
    model: Annotated[
        str | None,
        typer.Argument(help="efficientnet_lite0, a torchvision name, timm:NAME, or package.module:callable."),
    ] = None,
    target: Annotated[
        list[str] | None,
        typer.Argument(
            help="LAYER:CHANNEL, LAYER:3,7,10-19, LAYER:CHANNEL@Y,X, LAYER, logits:NAME, 'caricature(LAYER, FILE)', "
            "'inversion(LAYER, FILE)', or 'accentuation(TARGET, LAYER, FILE)'."
        ),
    ] = None,
    size: Annotated[int | None, typer.Option(help="Width and height of the image, 16-1024 px.")] = None,
    steps: Annotated[int | None, typer.Option(help="Optimisation steps.")] = None,
    seed: Annotated[int | None, typer.Option(help="Seed of the first image of each target.")] = None,
    copies: Annotated[int, typer.Option(help="Images of each target, from seed, seed + 1, ...")] = 1,
    batch: Annotated[int | None, typer.Option(help="Images in one tensor (default: what suits the device).")] = None,
    lr: Annotated[float | None, typer.Option(help="Learning rate.")] = None,
    image: Annotated[
        str | None, typer.Option(help="fourier, pixel, phase, pyramid, cppn, or generator:dcgan-faces.")
    ] = None,
    start: Annotated[Path | None, typer.Option(help="Picture to start from, instead of noise.")] = None,
    magnitude_file: Annotated[
        Path | None, typer.Option("--magnitude", help="Magnitudes for --image phase, made by `fvfast magnitude`.")
    ] = None,
    alpha: Annotated[
        bool, typer.Option("--alpha", help="Learn an opacity too; phases: transparent where nothing pulled.")
    ] = False,
    align: Annotated[bool, typer.Option("--align", help="Let all images have a component in common.")] = False,
    interpolate: Annotated[
        int | None, typer.Option(help="So many images on the way from each target to the next.")
    ] = None,
    patience: Annotated[
        int | None, typer.Option(help="Stop an image when its last so many steps brought less than 2 %.")
    ] = None,
    recipe: Annotated[str | None, typer.Option(help="default, lucent, torch-dreams, plain or maco.")] = None,
    device: Annotated[str | None, typer.Option(help="cpu, cuda, cuda:1, ... (default: a GPU if there is one).")] = None,
    dtype: Annotated[str | None, typer.Option(help="float32, bfloat16 or float16.")] = None,
    threads: Annotated[int | None, typer.Option(help="Processors for each image on a CPU.")] = None,
    network: Network = "auto",
    weights: Weights = "default",
    layout: Layout = None,
    out: Annotated[Path, typer.Option(help="Folder for the images.")] = Path("renders"),
    every: Annotated[int | None, typer.Option(help="Also keep a snapshot every so many steps.")] = None,
    snapshots: Annotated[
        str | None, typer.Option(metavar="STEPS", help="Also keep snapshots after these steps: 1,8,64.")
    ] = None,
    video: Annotated[
        Path | None, typer.Option(metavar="FILE", help="A film of the optimisation: .gif, .webp or .mp4.")
    ] = None,
    store: Annotated[
        Path | None,
        typer.Option("--store", metavar="DIR", help="Also keep the images here, with their history."),
    ] = None,
    source: Annotated[
        Path | None,
        typer.Option("--from", help="Render again what made this PNG. MODEL stands in for one that cannot be loaded."),
    ] = None,
    as_json: Json = False,
) -> None:
    """Render features as images: one PNG each, and a contact sheet. Without arguments: eight of the bundled model's."""
    from fvfast import files, keeping
    from fvfast.film import FRAMES
    from fvfast.rendering import render as run
    from fvfast.store import Store

    options: dict[str, Any] = {
        "start": start,
        "alpha": alpha or None,
        "align": align or None,
        "patience": patience,
        "size": size,
        "steps": steps,
        "seed": seed,
        "lr": lr,
        "image": image,
        "magnitude": magnitude_file,
        "dtype": dtype,
    }
    options |= {"recipe": recipe, "weights": weights}
    laid: str | Model | None = None
    imported = _since_start()
    loading = time.perf_counter()
    loaded, target, options = again(source, model, target, options) if source else (None, target, options)
    if layout:
        words = options.pop("weights", "default")
        laid, options["weights"] = laid_out(loaded or model or "efficientnet_lite0", words, layout)
    loading = time.perf_counter() - loading
    files.writable(out)
    if video is not None:
        _check_film(video)
    after = _steps(snapshots)
    options = {key: value for key, value in options.items() if value is not None}
    with contextlib.ExitStack() as stack:
        kept = stack.enter_context(Store(store, write=True)) if store else None
        screen = stack.enter_context(Screen(quiet=as_json))
        result = run(
            laid or loaded or model or "efficientnet_lite0",
            target or None,
            copies=copies,
            batch=batch,
            device=device,
            threads=threads,
            network=network,
            every=every,
            snapshots=after or (keeping.SNAPSHOTS if kept else ()),
            frames=FRAMES if video is not None else 0,
            interpolate=interpolate,
            progress=screen.progress,
            stop=screen.stopped,
            notify=screen.notify,
            **options,
        )
        keys = [entry.key for entry in keeping.keep(kept, result)] if kept else []
    writing = time.perf_counter()
    paths = result.save(out, alpha, snapshots=every is not None or bool(after))
    if len(result) > 1:
        files.write_png(result.sheet(), out / "sheet.png")
    count = result.film(video) if video is not None else 0
    result.stages = {"import": imported, **result.stages, "write": time.perf_counter() - writing}
    result.stages["model"] = loading + result.stages.get("model", 0.0)
    if as_json:
        made = None if video is None else {"file": str(video), "frames": count}
        document = {**_document(result, paths), "video": made}
        tell(document | ({"store": str(store), "keys": keys} if store else {}))
    else:
        _table(screen.console, result, paths)
        if video is not None:
            print(f"{video}, {count} frames")
        if store:
            print(f"kept in {store}; see one: fvfast store show {keys[0][:10] if keys else ''} --store {store}")
    for sentence in (note for note in result.notes if note not in screen.told):
        print(f"fvfast: {sentence}", file=sys.stderr)
    if result.failures:
        for sentence in result.failures:
            _complain(sentence)
        raise typer.Exit(BAD_INPUT)
    if result.interrupted:
        print(f"fvfast: interrupted; wrote {len(paths)} images as far as they had come", file=sys.stderr)
        raise typer.Exit(INTERRUPTED)


def _steps(text: str | None) -> list[int]:
    """The steps that `--snapshots 1,8,64` names."""
    if text is None:
        return []
    parts = [part.strip() for part in text.split(",")]
    if not all(part.isdecimal() for part in parts):
        raise FvfastError(f"--snapshots takes steps such as 1,8,64, not {text!r}")
    return [int(part) for part in parts]


def _check_film(path: Path) -> None:
    """See that a film can be written, before any work is done for it."""
    from fvfast import files, video

    video.check(path)
    if path.is_dir():
        raise FvfastError(f"{path} is a folder: name a file")
    if not path.absolute().parent.is_dir():
        raise FvfastError(f"no folder {path.parent} to write {path.name} in")
    files.writable(path.absolute().parent)


def _document(result: Render, paths: list[Path]) -> dict[str, Any]:
    return {
        "model": result.model,
        "device": result.device,
        "path": result.path,
        "form": result.form,
        "form_why": result.form_why,
        "dtype": result.dtype,
        "dtype_why": result.dtype_why,
        "steps": max(r.steps for r in result.recipes),
        "size": result.size,
        "seed": min(result.seeds),
        "seconds": round(result.seconds, 3),
        "steps_per_s": round(result.steps / result.seconds, 2),
        "images_per_s": round(len(result) / result.seconds, 4),
        "interrupted": result.interrupted,
        "stages": {name: round(seconds, 3) for name, seconds in result.stages.items()},
        "renders": [
            {
                "target": target,
                "file": str(path),
                "seed": seed,
                "steps": spec["steps"],
                "objective_start": start,
                "objective_end": end,
            }
            for target, path, seed, spec, start, end in zip(
                result.targets,
                paths,
                result.seeds,
                result.specs,
                result.objective_start.tolist(),
                result.objective.tolist(),
                strict=True,
            )
        ],
    }


def _table(console: Console, result: Render, paths: list[Path]) -> None:
    from rich.table import Table

    from fvfast.tables import figure

    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("target", overflow="fold")
    table.add_column("start", justify="right")
    table.add_column("end", justify="right")
    table.add_column("file", overflow="fold")
    starts, ends = result.objective_start.tolist(), result.objective.tolist()
    for target, start, end, path in zip(result.targets, starts, ends, paths, strict=True):
        table.add_row(target, figure(start), figure(end), path.name)
    console.print(table)
    folder = paths[0].parent
    where = f"in {folder}" + (f"; all on one page: {folder / 'sheet.png'}" if len(paths) > 1 else "")
    console.print(where, soft_wrap=True)
    console.print(
        f"{len(paths)} image{'s' if len(paths) > 1 else ''} of {result.size} px in {result.seconds:.1f} s, "
        f"{result.steps / result.seconds:.1f} steps/s, {result.device}, {result.path} path, {result.dtype}",
        style="dim",
    )
    if result.device != "cpu":
        console.print(f"the network ran as {result.form} ({result.form_why})", style="dim")
    elif result.form != "fused":
        console.print(f"the network ran as its own modules, slower: {result.form_why}", style="dim")
    stages = [f"{name} {seconds:.1f} s" for name, seconds in result.stages.items() if seconds >= 0.05]
    console.print(", ".join(stages), style="dim")


def _since_start() -> float:
    """Seconds since this process began, where the system tells (Linux); else since this module was imported."""
    try:
        ticks = int(Path("/proc/self/stat").read_text().rpartition(")")[2].split()[19])
        uptime = float(Path("/proc/uptime").read_text().split()[0])
    except (OSError, ValueError, IndexError):
        return time.perf_counter() - _IMPORTED
    return uptime - ticks / os.sysconf("SC_CLK_TCK")


app.command()(json_alone(dream))
app.command()(json_alone(magnitude))


app.command()(json_alone(layers))
app.command()(json_alone(models))
app.command()(json_alone(doctor))
app.command()(json_alone(speed))
app.command()(json_alone(atlas))
app.command()(json_alone(examples))
app.command()(dashboard)
app.command()(json_alone(activation_atlas))
app.command()(json_alone(quality))
app.add_typer(cli_store.app, name="store")


if __name__ == "__main__":
    main()
