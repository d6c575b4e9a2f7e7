"""The command line of `fvfast quality`: recipes side by side, in figures with intervals."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from fvfast.cli_atlas import BAD_INPUT, INTERRUPTED, Board, Weights
from fvfast.cli_json import Json, tell
from fvfast.errors import FvfastError
from fvfast.tables import print_columns

if TYPE_CHECKING:
    from fvfast.intervals import Interval
    from fvfast.measures import Report

# Each group is a table that fits into 80 columns.
GROUPS = {
    "the network, under views it never saw (held_out: standard deviations above 1/f noise)": (
        ("held_out", "held-out"),
        ("kept", "kept"),
        ("transfer", "transfer"),
    ),
    "the eye": (("slope", "slope"), ("high_frequency", "HF"), ("contrast", "contrast")),
    "colour, and how unlike the images of several seeds are": (
        ("colourfulness", "colour"),
        ("structure", "1 - MS-SSIM"),
        ("gram", "Gram"),
    ),
}


def quality(
    model: Annotated[str | None, typer.Argument(help="As for `render`.")] = None,
    target: Annotated[
        list[str] | None, typer.Argument(help="Channels and classes (default: the bundled network's 64).")
    ] = None,
    recipes: Annotated[
        str | None, typer.Option(help="Names with commas, NAME:IMAGE for another parameterisation (default: all).")
    ] = None,
    features: Annotated[int | None, typer.Option(help="How many of the 64 features.")] = None,
    size: Annotated[int | None, typer.Option(help="Width and height of all images (default: each recipe's).")] = None,
    steps: Annotated[int | None, typer.Option(help="Steps of all recipes (default: each one's own).")] = None,
    seeds: Annotated[int, typer.Option(help="Images of every third feature, for their diversity.")] = 2,
    second: Annotated[
        str | None, typer.Option(help="The network for transfer (default: efficientnet_lite2, if it is there).")
    ] = None,
    store: Annotated[Path, typer.Option("--store", metavar="DIR", help="Where renders are kept.")] = Path("quality"),
    only: Annotated[bool, typer.Option("--only", help="Render nothing: measure all that the store holds.")] = False,
    device: Annotated[str | None, typer.Option(help="cpu, cuda, cuda:1, ... (default: a GPU if there is one).")] = None,
    threads: Annotated[int | None, typer.Option(help="Processors for each image on a CPU.")] = None,
    weights: Weights = "default",
    as_json: Json = False,
) -> None:
    """Measure recipes on the same features: what networks see in the renders, and how natural and diverse they are.

    Renders are kept in a store: stopped at any moment, the same command goes on.
    """
    rendering = (model, target, recipes, features, size, steps)
    if only and any(value for value in rendering):
        raise FvfastError("--only measures all that the store holds: leave out what would be rendered")
    keys, failures, interrupted, loaded = None, [], False, None
    if not only:
        from fvfast import models, trials

        loaded = models.load(model or models.DEFAULT_MODEL, weights)
        with Board(quiet=as_json) as board:
            made = trials.render(
                loaded,
                target,
                variants=recipes.split(",") if recipes is not None else trials.VARIANTS,
                count=features,
                size=size,
                steps=steps,
                seeds=seeds,
                store=store,
                device=device,
                threads=threads,
                progress=board.advance,
                stop=board.stopped,
                notify=board.notify,
            )
        keys, failures, interrupted = made.keys, made.failures, made.interrupted
    report = None
    if not interrupted:
        from fvfast.measures import measure

        with Board(quiet=as_json, unit="measured") as board:
            report = measure(
                store, keys, model=loaded, second=second, device=device, progress=board.tick, stop=board.stopped
            )
        interrupted = report.interrupted
    if report is not None and not interrupted:
        _show(report, store, as_json)
    for sentence in [*failures, *(report.notes if report else [])]:
        print(f"fvfast: {sentence}", file=sys.stderr)
    if interrupted:
        print(f"fvfast: interrupted; the renders are in {store}, the same command goes on", file=sys.stderr)
        raise typer.Exit(INTERRUPTED)
    if failures:
        raise typer.Exit(BAD_INPUT)


def _show(report: Report, store: Path, as_json: bool) -> None:
    if as_json:
        tell({"store": str(store), **report.document()})
        return
    summary = report.summary()
    for title, columns in GROUPS.items():
        rows = [(variant, *(cell(found[name]) for name, _ in columns)) for variant, found in summary.items()]
        photographs = report.photographs or {}
        if any(name in photographs for name, _ in columns):
            some = (_short(photographs[name]) if name in photographs else "" for name, _ in columns)
            rows.append(("photographs", *some))
        print(title)
        print_columns(("recipe", *(heading for _, heading in columns)), rows, right=(1, 2, 3))
        print()
    print(_legend(report, store))


def cell(value: Interval | None) -> str:
    """`mean [low, high]`, or a dash where a measure does not apply."""
    if value is None:
        return "-"
    ends = "" if value.low is None or value.high is None else f" [{_short(value.low)}, {_short(value.high)}]"
    return f"{_short(value.mean)}{ends}"


def _short(value: float) -> str:
    return f"{value:.1f}" if abs(value) >= 10 else f"{value:.2f}"


def _legend(report: Report, store: Path) -> str:
    rows: list[dict[str, Any]] = report.rows
    sizes = sorted({row["size"] for row in rows})
    px = f"{sizes[0]}" if len(sizes) == 1 else f"{sizes[0]} to {sizes[-1]}"
    lines = [
        f"{len(rows)} renders by {report.model}, {px} px, in {store};",
        f"means over {len(report.features)} features, with 95 % bootstrap intervals",
    ]
    if report.second:
        lines.append(f"transfer: the class's probability by {report.second}")
    if report.photographs:
        lines.append(f"photographs: {report.photographs['source']}")
    return "\n".join(lines)
