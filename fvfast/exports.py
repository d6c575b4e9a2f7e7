"""A store's renders for other tools: a Parquet file, a table, or images with a manifest in a folder or an archive."""

from __future__ import annotations

import csv
import dataclasses
import io
import json
import re
import shutil
import zipfile
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from fvfast.errors import FvfastError
from fvfast.files import whole
from fvfast.identity import canonical
from fvfast.store import Entry, Query, Store

ROWS_AT_ONCE = 1000


def to_parquet(store: Store, file: Path, query: Query | None = None, images: bool = True) -> int:
    """Write renders as one Parquet table: every field of `Entry`, the recipe as JSON, the history, and the images.

    images: whether to put their bytes in (columns `image_bytes` and `snapshots`: step, image_bytes). Returns the number
    of rows.
    Raises FvfastError where pyarrow is missing or the file cannot be written.
    """
    try:
        import pyarrow as pa
        import pyarrow.parquet as pq
    except ImportError as error:
        raise FvfastError("Parquet needs pyarrow: pip install 'fvfast[parquet]'") from error
    kinds = {"int": pa.int64(), "float": pa.float64()}
    schema = pa.schema([(name, kinds.get(kind, pa.string())) for name, kind in Entry.__annotations__.items()])
    schema = schema.append(pa.field("history", pa.list_(pa.float32())))
    if images:
        schema = schema.append(pa.field("image_bytes", pa.binary()))
        stage = pa.struct([("step", pa.int64()), ("image_bytes", pa.binary())])
        schema = schema.append(pa.field("snapshots", pa.list_(stage)))
    count = 0
    with whole(file) as sink, pq.ParquetWriter(sink, schema, compression="zstd") as writer:
        for rows in _batches(store, query):
            for row in rows:
                row["recipe"] = canonical(row["recipe"])
                trace = store.trace(row["key"])
                row["history"] = trace.history.tolist()
                if images:
                    row["image_bytes"] = _read(store, row["image"])
                    row["snapshots"] = [{"step": s, "image_bytes": _read(store, path)} for s, path in trace.snapshots]
            writer.write_table(pa.Table.from_pylist(rows, schema))
            count += len(rows)
    return count


def to_folder(store: Store, folder: Path, query: Query | None = None) -> int:
    """Write renders as files named for people, with `manifest.json` beside them: a list of every field of `Entry`
    and `Trace`, with the images as paths in the folder. Returns the number of renders.

    The manifest comes last: where it is, every file that it names is there.
    """
    manifest: list[dict[str, Any]] = []
    taken: set[str] = set()
    try:
        for entry in store.each(query):
            name, trace = _name(entry, taken), store.trace(entry.key)
            moved: dict[str, Any] = {
                kind: _copy(store.folder / getattr(entry, kind), folder, f"{kind}s", name)
                for kind in ("image", "thumbnail")
            }
            moved["snapshots"] = [
                {"step": step, "image": _copy(store.folder / path, folder, "snapshots", f"{name}-step{step:05d}")}
                for step, path in trace.snapshots
            ]
            manifest.append({**asdict(entry), "history": trace.history.tolist(), **moved})
        folder.mkdir(parents=True, exist_ok=True)
    except FileNotFoundError as error:
        raise FvfastError(f"{error.filename} is missing: see `fvfast store verify --store {store.folder}`") from error
    except OSError as error:
        raise FvfastError(f"cannot write to {folder} ({error.strerror}); choose another place to export to") from error
    with whole(folder / "manifest.json") as file:
        file.write(json.dumps(manifest, indent=1).encode())
    return len(manifest)


def _copy(source: Path, folder: Path, below: str, name: str) -> str:
    """Copy a file to `folder/below/name`; its path in the folder."""
    (folder / below).mkdir(parents=True, exist_ok=True)
    shutil.copyfile(source, folder / below / f"{name}{source.suffix}")
    return f"{below}/{name}{source.suffix}"


def to_zip(store: Store, entries: Sequence[Entry]) -> bytes:
    """Renders as a ZIP archive: the images, named for people, `manifest.json` and `manifest.csv`; its bytes.

    In the manifests `image` is the path in the archive.
    """
    buffer, taken, rows = io.BytesIO(), set[str](), []
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_STORED) as archive:  # images are compressed already
        for entry in entries:
            image = f"images/{_name(entry, taken)}{Path(entry.image).suffix}"
            archive.writestr(image, _read(store, entry.image))
            rows.append(dataclasses.replace(entry, image=image))
        archive.writestr("manifest.json", json.dumps([asdict(row) for row in rows], indent=1))
        archive.writestr("manifest.csv", to_csv(rows))
    return buffer.getvalue()


def to_csv(entries: Sequence[Entry]) -> str:
    """Renders as a table for spreadsheets: every field of `Entry`, the recipe as JSON."""
    buffer = io.StringIO(newline="")
    writer = csv.DictWriter(buffer, [field.name for field in dataclasses.fields(Entry)])
    writer.writeheader()
    for entry in entries:
        row = asdict(entry) | {"recipe": canonical(entry.recipe)}
        writer.writerow({name: _inert(value) for name, value in row.items()})
    return buffer.getvalue()


def _inert(value: Any) -> Any:
    """Text that a spreadsheet will not take for a formula."""
    return f"'{value}" if isinstance(value, str) and value.startswith(("=", "+", "-", "@", "\t", "\r")) else value


def _batches(store: Store, query: Query | None) -> Iterator[list[dict[str, Any]]]:
    rows: list[dict[str, Any]] = []
    for entry in store.each(query):
        rows.append(asdict(entry))
        if len(rows) == ROWS_AT_ONCE:
            yield rows
            rows = []
    if rows:
        yield rows


def _read(store: Store, path: str) -> bytes:
    try:
        return (store.folder / path).read_bytes()
    except OSError as error:
        raise FvfastError(f"{path} cannot be read: see `fvfast store verify --store {store.folder}`") from error


def _name(entry: Entry, taken: set[str]) -> str:
    """A file name that says what the image shows, and by its key what made it where names would be the same."""
    plain = re.sub(r"[^A-Za-z0-9_.@-]+", "-", f"{entry.model}-{entry.target}").strip("-")[:120]
    name = f"{plain}-seed{entry.seed}" if entry.seed else plain
    if name.lower() in taken:  # some file systems do not tell "Cardigan" from "cardigan"
        name = f"{name}-{entry.key[:12]}"
    taken.add(name.lower())
    return name
