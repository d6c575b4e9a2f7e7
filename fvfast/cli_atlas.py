"""The command line of whole networks: `fvfast atlas` and `fvfast examples`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from fvfast.cli_json import Json, tell
from fvfast.cli_layouts import Layout, laid_out
from fvfast.errors import FvfastError
from fvfast.screen import Screen

if TYPE_CHECKING:
    from fvfast.atlases import AtlasProgress, AtlasResult

BAD_INPUT, INTERRUPTED = 2, 130

Weights = Annotated[str, typer.Option(help="none (random), default, or a FILE (safetensors or plain checkpoint).")]
Network = Annotated[
    str, typer.Option(help="Its form on a GPU: modules, tuned, recorded, compiled, or auto: whichever is fastest.")
]
StoreFolder = Annotated[Path, typer.Option("--store", metavar="DIR", help="The store's folder.")]


def atlas(
    model: Annotated[str, typer.Argument(help="As for `render`.")],
    layer: Annotated[
        list[str] | None, typer.Argument(help="Layers; * stands for a part of a name, as in '_blocks.*'.")
    ] = None,
    channels: Annotated[str | None, typer.Option(help="Only these: 0-63,100 (default: all of a layer).")] = None,
    everything: Annotated[bool, typer.Option("--all", help="Every convolution, linear map and class.")] = False,
    store: StoreFolder = Path("atlas"),
    batch: Annotated[str, typer.Option(help="Images in one tensor, or auto: what the device has room for.")] = "auto",
    engine: Annotated[str, typer.Option(help="local, or ray: batches spread over a cluster.")] = "local",
    address: Annotated[
        str | None, typer.Option(help="A Ray cluster's (default: RAY_ADDRESS, or one of its own).")
    ] = None,
    size: Annotated[int | None, typer.Option(help="Width and height of the images, 16-1024 px.")] = None,
    steps: Annotated[int | None, typer.Option(help="Optimisation steps.")] = None,
    seed: Annotated[int, typer.Option(help="Seed of the first image of each feature.")] = 0,
    copies: Annotated[int, typer.Option(help="Images of each feature, from seed, seed + 1, ...")] = 1,
    lr: Annotated[float | None, typer.Option(help="Learning rate.")] = None,
    image: Annotated[str | None, typer.Option(help="Parameterisation, as for `render`.")] = None,
    recipe: Annotated[str, typer.Option(help="As for `render`.")] = "default",
    device: Annotated[str | None, typer.Option(help="cpu, cuda, cuda:1, ... (default: a GPU if there is one).")] = None,
    dtype: Annotated[str | None, typer.Option(help="float32, bfloat16 or float16.")] = None,
    threads: Annotated[int | None, typer.Option(help="Processors for each image on a CPU.")] = None,
    network: Network = "auto",
    weights: Weights = "default",
    layout: Layout = None,
    image_format: Annotated[str, typer.Option("--format", help="Of the images: png or webp, both lossless.")] = "png",
    as_json: Json = False,
) -> None:
    """Render every feature of layers, or of a network, into a store. Killed at any moment, the same command goes on."""
    from fvfast.atlases import atlas as run

    if batch != "auto" and not batch.isdecimal():
        raise FvfastError(f"--batch takes a number or auto, not {batch!r}")
    laid, weights = laid_out(model, weights, layout)
    with Board(quiet=as_json) as board:
        result = run(
            laid,
            layer or [],
            channels=channels,
            everything=everything,
            store=store,
            engine=engine,
            address=address,
            recipe=recipe,
            image=image,
            size=size,
            steps=steps,
            seed=seed,
            copies=copies,
            lr=lr,
            batch=None if batch == "auto" else int(batch),
            device=device,
            dtype=dtype,
            threads=threads,
            network=network,
            weights=weights,
            image_format=image_format,
            progress=board.advance,
            stop=board.stopped,
            notify=board.notify,
        )
    _tell(result, as_json)


def _tell(result: AtlasResult, as_json: bool) -> None:
    """Say what a run came to, and leave with the exit code that says it to scripts."""
    there = result.skipped + result.rendered
    if as_json:
        tell(_document(result))
    else:
        rate = f" in {result.seconds:.1f} s, {result.features_per_s:.2f} features/s" if result.rendered else ""
        print(f"{result.rendered} features rendered{rate}; {result.skipped} were there before")
        print(f"{there} of {len(result.keys)} in {result.store}; list them: fvfast store ls --store {result.store}")
    for sentence in result.failures:
        print(f"fvfast: {sentence}", file=sys.stderr)
    if result.interrupted:
        left = len(result.keys) - there
        print(f"fvfast: interrupted; {left} features are left, the same command goes on with them", file=sys.stderr)
        raise typer.Exit(INTERRUPTED)
    if result.failures:
        raise typer.Exit(BAD_INPUT)


def _document(result: AtlasResult) -> dict[str, Any]:
    return {
        "store": str(result.store),
        "model": result.model,
        "features": len(result.keys),
        "rendered": result.rendered,
        "skipped": result.skipped,
        "failures": result.failures,
        "dtype": result.dtype,
        "dtype_why": result.dtype_why,
        "seconds": round(result.seconds, 3),
        "features_per_s": round(result.features_per_s, 4),
        "interrupted": result.interrupted,
        "keys": result.keys,
    }


class Board(Screen):
    """The screen of an atlas: how many are done, how many a second, and the time that is left. All on stderr."""

    def __init__(self, quiet: bool, unit: str = "features") -> None:
        from rich.console import Console
        from rich.progress import BarColumn, Progress, TextColumn

        self.console = Console(stderr=True, highlight=False, markup=False, emoji=False)
        self.bar = Progress(
            TextColumn("{task.fields[count]} {task.fields[unit]}"),
            BarColumn(bar_width=None),
            TextColumn("{task.percentage:>3.0f}%"),
            TextColumn("{task.fields[rate]:>6} {task.fields[unit]}/s"),
            TextColumn("{task.fields[left]} left"),
            console=self.console,
            transient=True,
            disable=quiet or not self.console.is_terminal,
        )
        self.task = self.bar.add_task("", total=None, count="0/?", rate="", left="?", unit=unit)
        self.interrupted = False
        self._had: float | None = None  # what was done before this run began to count

    def __enter__(self) -> Board:
        super().__enter__()
        return self

    def advance(self, progress: AtlasProgress) -> None:
        """Show how far an atlas is."""
        completed = progress.done + progress.partial
        self._update(completed, progress.done, progress.total, progress.rate, progress.seconds_left)

    def tick(self, done: int, total: int) -> None:
        """Show how many of how many are done, at the rate since the bar appeared."""
        elapsed = self.bar.tasks[0].elapsed or 0
        rate = done / elapsed if elapsed > 0.5 else 0.0
        self._update(done, done, total, rate, (total - done) / rate if rate else None)

    def count(self, unit: str, done: float, total: int) -> None:
        """As `tick`, for work that counts one thing after another: the rate starts anew with each."""
        if self.bar.tasks[0].fields["unit"] != unit:
            self.bar.reset(self.task, total=total, count=f"0/{total}", rate="", left="?", unit=unit)
            self._had = None
        if self._had is None:
            self._had = done
        elapsed = self.bar.tasks[0].elapsed or 0
        rate = (done - self._had) / elapsed if elapsed > 0.5 else 0.0
        self._update(done, int(done), total, rate, (total - done) / rate if rate else None)

    def _update(self, completed: float, done: int, total: int, rate: float, left: float | None) -> None:
        self.bar.update(
            self.task,
            completed=completed,
            total=total,
            count=f"{done}/{total}",
            rate=f"{rate:.2f}" if rate else "",
            left=duration(left),
        )


def duration(seconds: float | None) -> str:
    """`12 s`, `3:04 min` or `5:07 h`; `?` where it is not known."""
    if seconds is None:
        return "?"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60}:{whole % 60:02d} min"
    return f"{whole // 3600}:{whole // 60 % 60:02d} h"


def examples(
    model: Annotated[str, typer.Argument(help="As for `render`.")],
    layer: Annotated[str, typer.Argument(help="One layer.")],
    folder: Annotated[Path, typer.Argument(help="Folder of images, with all that is below it.")],
    store: StoreFolder = Path("atlas"),
    top: Annotated[int, typer.Option(help="Examples of each channel.")] = 9,
    neighbours: Annotated[int, typer.Option(help="Nearest channels of each channel.")] = 8,
    size: Annotated[int | None, typer.Option(help="What the network sees of an image, px (default: its own).")] = None,
    whole: Annotated[bool, typer.Option("--whole", help="Keep whole images, not the part that excites.")] = False,
    device: Annotated[str | None, typer.Option(help="cpu, cuda, cuda:1, ... (default: a GPU if there is one).")] = None,
    weights: Weights = "default",
    layout: Layout = None,
    as_json: Json = False,
) -> None:
    """Find which of your own images, and where in them, excite each channel of a layer; kept in the store."""
    from fvfast.examples import find

    laid, weights = laid_out(model, weights, layout)
    with Board(quiet=as_json, unit="images") as board:
        found = find(
            laid,
            layer,
            folder,
            store=store,
            top=top,
            neighbours=neighbours,
            size=size,
            whole=whole,
            device=device,
            weights=weights,
            progress=board.tick,
            stop=board.stopped,
        )
    for sentence in found.failures:
        print(f"fvfast: {sentence}", file=sys.stderr)
    if found.interrupted:
        print("fvfast: interrupted; nothing was kept", file=sys.stderr)
        raise typer.Exit(INTERRUPTED)
    if as_json:
        tell(found.document())
    else:
        print(f"{found.examples} examples for {found.channels} channels of {layer}, from {found.images} images")
        print(f"in {store}; see one: fvfast store show {layer}:0 --store {store}")
