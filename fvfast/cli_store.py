"""The command line of stores: `fvfast store ls`, `show`, `export`, `verify`, `gc`."""

from __future__ import annotations

import json
import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from fvfast import spelling
from fvfast.cli_atlas import BAD_INPUT, StoreFolder
from fvfast.cli_json import Json, json_alone, tell
from fvfast.errors import FvfastError
from fvfast.tables import figure, print_columns

if TYPE_CHECKING:
    from fvfast.store import Entry, Query, Store

app = typer.Typer(help="List, show, export and check what `fvfast atlas` has kept.", no_args_is_help=True)

Model = Annotated[str | None, typer.Option(help="Only of this model.")]
Layer = Annotated[str | None, typer.Option(help="Only of this layer.")]
Channels = Annotated[str | None, typer.Option("--channels", help="Only these: 7, or 0-63.")]
RecipeName = Annotated[str | None, typer.Option("--recipe", help="Only by this recipe.")]
Text = Annotated[str | None, typer.Option("--text", help="Only targets that contain this.")]


@app.command()
@json_alone
def ls(
    store: StoreFolder = Path("atlas"),
    model: Model = None,
    layer: Layer = None,
    channels: Channels = None,
    recipe: RecipeName = None,
    text: Text = None,
    limit: Annotated[int, typer.Option(help="Rows on a page.", min=1)] = 50,
    offset: Annotated[int, typer.Option(help="Rows to leave out first.", min=0)] = 0,
    as_json: Json = False,
) -> None:
    """List renders, in the order of the forward pass."""
    from fvfast.store import Store

    query = _query(model, layer, channels, recipe, text)
    with Store(store) as kept:
        total = kept.count(query)
        entries = kept.entries(query, limit, offset)
    if as_json:
        tell({"store": str(store), "total": total, "renders": [asdict(e) for e in entries]})
        return
    header = ("key", "model", "target", "recipe", "px", "steps", "seed", "start", "end", "s")
    rows = [
        (
            e.key[:10],
            e.model,
            e.target,
            str(e.recipe.get("name", "")),
            str(e.size),
            str(e.steps),
            str(e.seed),
            figure(e.objective_start),
            figure(e.objective_end),
            f"{e.seconds:.1f}",
        )
        for e in entries
    ]
    if rows:
        print_columns(header, rows, right=(4, 5, 6, 7, 8, 9))
    shown = f"{offset + 1}-{offset + len(rows)} of " if rows else ""
    print(f"{shown}{total} renders in {store}")


@app.command()
@json_alone
def show(
    key: Annotated[str, typer.Argument(help="A render's key or the beginning of it, or a target.")],
    store: StoreFolder = Path("atlas"),
    as_json: Json = False,
) -> None:
    """Show all that is known of a render: what made it, where its files are, its examples and its neighbours."""
    from fvfast import evidence
    from fvfast.store import Store

    with Store(store) as kept:
        entry = _find(kept, key)
        document: dict[str, Any] = asdict(entry)
        document["image"], document["thumbnail"] = (str(store / p) for p in (entry.image, entry.thumbnail))
        trace = kept.trace(entry.key)
        document["history"] = trace.history.tolist()
        document["snapshots"] = [{"step": step, "image": str(store / path)} for step, path in trace.snapshots]
        document["examples"] = [_example(store, e) for e in evidence.examples(kept, entry)]
        document["neighbours"] = [asdict(near) for near in evidence.neighbours(kept, entry)]
    if as_json:
        tell(document)
        return
    examples, neighbours = document.pop("examples"), document.pop("neighbours")
    snapshots = document.pop("snapshots")
    del document["history"]
    document["recipe"] = json.dumps(document["recipe"])
    width = max(map(len, document))
    for name, value in document.items():
        print(f"{name.ljust(width)}  {value}")
    for snapshot in snapshots:
        print(f"{'snapshot'.ljust(width)}  after {snapshot['step']} steps  {snapshot['image']}")
    for example in examples:
        print(f"{'example'.ljust(width)}  {figure(example['activation'])}  {example['source']}")
    for other in neighbours:
        print(f"{'neighbour'.ljust(width)}  {other['cosine']:.3f}  {spelling.layer(entry.layer)}:{other['other']}")


@app.command()
@json_alone
def export(
    out: Annotated[Path, typer.Argument(help="FILE.parquet, or a folder for images and manifest.json.")],
    store: StoreFolder = Path("atlas"),
    model: Model = None,
    layer: Layer = None,
    channels: Channels = None,
    recipe: RecipeName = None,
    text: Text = None,
    images: Annotated[bool, typer.Option(help="Put the images into the Parquet file too.")] = True,
    as_json: Json = False,
) -> None:
    """Copy renders out of a store: into one Parquet file, or into a folder of images with a JSON manifest."""
    from fvfast.exports import to_folder, to_parquet
    from fvfast.store import Store

    query = _query(model, layer, channels, recipe, text)
    with Store(store) as kept:
        if not kept.count(query):
            raise FvfastError(f"nothing to export: no render in {store} fits")
        count = to_parquet(kept, out, query, images) if out.suffix == ".parquet" else to_folder(kept, out, query)
    if as_json:
        tell({"out": str(out), "renders": count})
    else:
        print(f"{count} renders in {out}")


@app.command()
@json_alone
def verify(
    store: StoreFolder = Path("atlas"),
    repair: Annotated[bool, typer.Option("--repair", help="Drop broken rows, so that they are made again.")] = False,
    as_json: Json = False,
) -> None:
    """Check every row's files against their digests, and look for files without a row."""
    from fvfast import upkeep
    from fvfast.store import Store

    with Store(store, write=repair and (store / "index.sqlite").is_file()) as kept:
        report = upkeep.verify(kept)
        dropped = upkeep.drop_broken(kept, report) if repair and not report.sound else 0
    if as_json:
        tell({"store": str(store), "sound": report.sound, "dropped": dropped, **asdict(report)})
    else:
        for kind in ("missing", "damaged"):
            for path in getattr(report, kind):
                print(f"{kind}: {path}")
        waste = f"; {len(report.orphans)} files without a row, {len(report.unfinished)} unfinished" * bool(
            report.orphans or report.unfinished
        )
        state = "sound" if report.sound else f"{len(report.missing)} files missing, {len(report.damaged)} damaged"
        print(f"{report.rows} rows: {state}{waste}")
    if report.sound:
        return
    if repair:
        print(f"fvfast: dropped {dropped} rows; the atlas command makes them again", file=sys.stderr)
        return
    print(
        f"fvfast: the store {store} is broken: `fvfast store verify --repair --store {store}` mends it", file=sys.stderr
    )
    raise typer.Exit(BAD_INPUT)


@app.command()
@json_alone
def gc(store: StoreFolder = Path("atlas"), as_json: Json = False) -> None:
    """Remove files that no row names, and unfinished ones."""
    from fvfast import upkeep
    from fvfast.store import Store

    with Store(store):  # says so where there is none, instead of making one
        pass
    with Store(store, write=True) as kept:
        count, size = upkeep.gc(kept)
    if as_json:
        tell({"store": str(store), "removed": count, "bytes": size})
    else:
        print(f"removed {count} files, {size / 1e6:.1f} MB, from {store}")


def _query(model: str | None, layer: str | None, channels: str | None, recipe: str | None, text: str | None) -> Query:
    from fvfast.store import Query

    span: tuple[int, int] | None = None
    if channels is not None:
        if "," in channels or not spelling.SPANS.fullmatch(channels):
            raise FvfastError(f"--channels takes a number or a range such as 0-63, not {spelling.shown(channels)}")
        (span,) = spelling.spans(channels, "of --channels")
    return Query(model, layer, span, recipe, text)


def _find(store: Store, key: str) -> Entry:
    """The one render that a key, its beginning, or a target names."""
    from fvfast.store import Query

    found = [e for e in store.each(Query(text=key)) if e.target == key]
    if not found and key and set(key) <= set("0123456789abcdef"):
        found = store.entries(Query(key=key), 10)
    if not found:
        raise FvfastError(f"no render {key!r} in {store.folder}; `fvfast store ls` lists them")
    if len(found) > 1:
        some = ", ".join(e.key[:10] for e in found[:5])
        raise FvfastError(f"{key!r} names {len(found)} renders; write one of the keys: {some}")
    return found[0]


def _example(store: Path, example: Any) -> dict[str, Any]:
    return {**asdict(example), "image": str(store / example.image)}
