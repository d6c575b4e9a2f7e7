"""Where renders are kept and found again: a folder of images named after their content, and one SQLite index.

An image is written first, under a temporary name, and its row after it; so every row has its file, whenever the
process that writes dies. There is one writer at a time; readers need not wait for it.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import re
import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np

from fvfast import blobs, schema
from fvfast.errors import FvfastError
from fvfast.identity import canonical
from fvfast.lock import Lock

INDEX = "index.sqlite"
DEFAULT = "atlas"  # the folder, where none is named
NO_CHANNEL = -1

# How renders are listed, by what `Query.sort` says. A value that is not a number is NULL, which comes last here.
SORTS = {
    "layer": "{0}model, {0}depth, {0}layer, {0}channel, {0}seed, {0}id",
    "highest": "{0}objective_end DESC, {0}id DESC",
    "lowest": "{0}objective_end IS NULL, {0}objective_end, {0}id",
    "newest": "{0}created DESC, {0}id DESC",
}


@dataclass(frozen=True)
class Entry:
    """One render in a store.

    key: the digest of what determines it (`fvfast.identity`). model, weights: the words that load the network again;
    weights_digest: of its state. layer, channel: the feature; where an objective is no single channel, the deepest
    layer that it reads and -1. depth: the layer's place in the forward pass. target: as it is written.
    recipe: as `Recipe.to_dict` gives it. seed; size: pixels; steps.
    objective_start, objective_end: on the unaugmented canvas. seconds: its share of the time that its batch took.
    device, path, dtype: what it ran on. version: of fvfast. created: UTC, ISO 8601. note: a sentence, or empty.
    image, thumbnail: files, as paths in the store.
    """

    key: str
    model: str
    weights: str
    weights_digest: str
    layer: str
    depth: int
    channel: int
    target: str
    recipe: dict[str, Any]
    seed: int
    size: int
    steps: int
    objective_start: float
    objective_end: float
    seconds: float
    device: str
    path: str
    dtype: str
    version: str
    created: str
    note: str
    image: str
    thumbnail: str


@dataclass(frozen=True)
class Trace:
    """How a render came about. history: float32 [steps], the objective of the view at each step; empty where it was
    not kept. snapshots: (steps taken, file as a path in the store), the earliest first, without the finished image."""

    history: np.ndarray
    snapshots: list[tuple[int, str]]


@dataclass(frozen=True)
class Made:
    """A render on its way into a store: its row, the bytes of its files, and its trace.

    history: float32, little-endian, one number a step; snapshots: (steps taken, bytes of a WebP).
    """

    entry: Entry
    image: bytes
    thumbnail: bytes
    history: bytes = b""
    snapshots: tuple[tuple[int, bytes], ...] = ()


@dataclass(frozen=True)
class Query:
    """Which renders to list; every condition that is set must hold.

    model, layer, recipe, key: equal to; a key may be cut short. recipe: also several names, any of them. channel: a
    number, or (first, last). text: anywhere in the target. objective: (least, most) of the finished image, None for
    no bound. keys: whole ones, any of them. sort: "layer" (the order of the forward pass), "highest" or "lowest"
    objective first, "newest".
    """

    model: str | None = None
    layer: str | None = None
    channel: int | tuple[int, int] | None = None
    recipe: str | tuple[str, ...] | None = None
    text: str | None = None
    key: str | None = None
    objective: tuple[float | None, float | None] | None = None
    keys: tuple[str, ...] | None = None
    sort: str = "layer"

    def where(self) -> tuple[str, list[Any]]:
        """An SQL condition and its parameters."""
        terms: list[tuple[str, list[Any]]] = []
        if self.model is not None:
            terms.append(("model = ?", [self.model]))
        if self.layer is not None:
            terms.append(("layer = ?", [self.layer]))
        if self.channel is not None:
            first, last = (self.channel, self.channel) if isinstance(self.channel, int) else self.channel
            terms.append(("channel BETWEEN ? AND ?", [first, last]))
        if self.recipe is not None:
            names = [self.recipe] if isinstance(self.recipe, str) else list(self.recipe)
            marks = ", ".join("?" * len(names))
            terms.append((f"renders.recipe IN (SELECT id FROM recipes WHERE name IN ({marks}))", names))
        if self.text is not None:
            literal = re.sub(r"([%_\\])", r"\\\1", self.text)
            terms.append(("target LIKE ? ESCAPE '\\'", [f"%{literal}%"]))
        if self.key is not None:
            terms.append(("key >= ? AND key < ?", [self.key, self.key + "g"]))  # digits of a key end at f
        if self.objective is not None:
            for bound, comparison in zip(self.objective, (">=", "<="), strict=True):
                if bound is not None:
                    terms.append((f"objective_end {comparison} ?", [bound]))
        if self.keys is not None:  # as one parameter, of which SQLite takes a limited number
            terms.append(("key IN (SELECT value FROM json_each(?))", [json.dumps(self.keys)]))
        return " AND ".join(t for t, _ in terms) or "1", [value for _, values in terms for value in values]

    def order(self, table: str = "") -> str:
        """What follows ORDER BY. table: what columns are qualified with. Raises FvfastError for an unknown sort."""
        if self.sort not in SORTS:
            raise FvfastError(f"unknown order {self.sort!r}; there are {', '.join(SORTS)}")
        return SORTS[self.sort].format(table and f"{table}.")


_COLUMNS = tuple(field.name for field in fields(Entry))
_SELECT = ", ".join("recipes.json" if name == "recipe" else f"renders.{name}" for name in _COLUMNS)
_INSERT = (
    f"INSERT INTO renders ({', '.join(_COLUMNS)}) VALUES ({', '.join(f':{name}' for name in _COLUMNS)}) "
    "ON CONFLICT (key) DO NOTHING"
)


class Store:
    """A store that is open. Close it, or use it as a context manager."""

    def __init__(self, folder: str | Path, write: bool = False) -> None:
        """folder: the store's; write: whether to write to it, which makes it where it is missing.

        Raises FvfastError where it does not exist, is written to by another process, is damaged, or is newer.
        """
        self.folder = Path(folder)
        self.lock: Lock | None = None
        if write:
            self._make_folder()
            self.lock = Lock(self.folder)
        elif not (self.folder / INDEX).is_file():
            raise FvfastError(f"no store in {self.folder}: `fvfast atlas ... --store {self.folder}` makes one")
        try:
            with self._plainly():
                self.connection = _connect(self.folder / INDEX, write)
                self._bring_up_to_date()
        except BaseException:
            self.close()
            raise

    def _make_folder(self) -> None:
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            (self.folder / "writer.lock").touch()
        except OSError as error:
            raise FvfastError(
                f"cannot write to the store {self.folder} ({error.strerror}); choose another with --store"
            ) from error

    def _bring_up_to_date(self) -> None:
        if schema.version(self.connection) == schema.VERSION:
            return
        if self.lock is None:  # a reader changes an older index only if nobody else is at it
            with Store(self.folder, write=True):
                return
        schema.migrate(self.connection)

    def close(self) -> None:
        """Let go of the index and of the right to write."""
        connection: sqlite3.Connection | None = getattr(self, "connection", None)
        if connection is not None:
            connection.close()
        if self.lock is not None:
            self.lock.release()

    def __enter__(self) -> Store:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    # Reading ---------------------------------------------------------------------------------------------------

    def entries(self, query: Query | None = None, limit: int | None = None, offset: int = 0) -> list[Entry]:
        """Renders in the query's order: `limit` of them from `offset` on."""
        return list(self.each(query, limit, offset))

    def each(self, query: Query | None = None, limit: int | None = None, offset: int = 0) -> Iterator[Entry]:
        """As `entries`, one at a time."""
        query = query or Query()
        condition, values = query.where()
        # The page is found in the index alone; only its own rows are then read.
        sql = (
            f"SELECT {_SELECT} FROM (SELECT id AS chosen FROM renders WHERE {condition} "
            f"ORDER BY {query.order()} LIMIT ? OFFSET ?) "
            "JOIN renders ON renders.id = chosen JOIN recipes ON recipes.id = renders.recipe "
            f"ORDER BY {query.order('renders')}"
        )
        with self._plainly():
            for row in self.connection.execute(sql, [*values, -1 if limit is None else limit, offset]):
                yield _entry(dict(zip(_COLUMNS, row, strict=True)))

    def count(self, query: Query | None = None) -> int:
        """How many renders there are."""
        condition, values = (query or Query()).where()
        return self.execute(f"SELECT count(*) FROM renders WHERE {condition}", values)[0][0]

    def layers(self) -> list[dict[str, Any]]:
        """What the store holds: dictionaries with model, layer, depth and count, in the order of the forward pass."""
        rows = self.execute("SELECT model, layer, depth, count(*) FROM renders GROUP BY model, depth, layer")
        return [dict(zip(("model", "layer", "depth", "count"), row, strict=True)) for row in rows]

    def recipes(self) -> list[str]:
        """The names of the recipes of which there are renders."""
        used = "SELECT DISTINCT name FROM recipes WHERE id IN (SELECT recipe FROM renders) ORDER BY name"
        return [name for (name,) in self.execute(used)]

    def trace(self, key: str) -> Trace:
        """How the render with this key came about. Raises FvfastError where there is no such render."""
        found = self.execute("SELECT id FROM renders WHERE key = ?", [key])
        if not found:
            raise FvfastError(f"no render {key!r} in {self.folder}; `fvfast store ls` lists them")
        history = self.execute("SELECT history FROM traces WHERE render = ?", found[0])
        numbers = np.frombuffer(history[0][0] if history else b"", dtype="<f4")
        snapshots = self.execute("SELECT step, image FROM snapshots WHERE render = ? ORDER BY step", found[0])
        return Trace(numbers, [(step, image) for step, image in snapshots])

    def present(self, keys: Iterable[str]) -> set[str]:
        """Those of the keys that are there."""
        wanted = list(keys)
        found: set[str] = set()
        for at in range(0, len(wanted), 500):  # SQLite takes a limited number of parameters
            some = wanted[at : at + 500]
            marks = ", ".join("?" * len(some))
            found.update(k for (k,) in self.execute(f"SELECT key FROM renders WHERE key IN ({marks})", some))
        return found

    def execute(self, sql: str, values: Sequence[Any] = ()) -> list[tuple[Any, ...]]:
        """All rows of a query; an FvfastError where the index cannot be read."""
        with self._plainly():
            return self.connection.execute(sql, values).fetchall()

    # Writing ---------------------------------------------------------------------------------------------------

    def add(self, made: Sequence[Made]) -> None:
        """Keep renders: all their files, then all their rows. One whose key is there already changes nothing.

        Raises FvfastError where the disk is full; what was kept before stays.
        """
        files = {m.entry.image: m.image for m in made} | {m.entry.thumbnail: m.thumbnail for m in made}
        files |= {_snapshot_file(data): data for m in made for _, data in m.snapshots}
        self.put(files)
        with self.transaction() as connection:
            for m in made:
                recipe = canonical(m.entry.recipe)
                digest = hashlib.sha256(recipe.encode()).hexdigest()
                name = m.entry.recipe.get("name", "")
                connection.execute(
                    "INSERT OR IGNORE INTO recipes (digest, name, json) VALUES (?, ?, ?)", (digest, name, recipe)
                )
                (number,) = connection.execute("SELECT id FROM recipes WHERE digest = ?", (digest,)).fetchone()
                if connection.execute(_INSERT, {**asdict(m.entry), "recipe": number}).rowcount:
                    _add_trace(connection, m)

    def put(self, files: dict[str, bytes]) -> None:
        """Write files (path in the store: content), whole, and see them onto the disk."""
        try:
            for relative, data in files.items():
                blobs.put(self.folder, relative, data)
            blobs.settle(self.folder, set(files))
        except OSError as error:
            raise FvfastError(
                f"cannot write to the store {self.folder} ({error.strerror}): make room, then run the same command "
                "again; what is in the store stays"
            ) from error

    @contextlib.contextmanager
    def transaction(self) -> Iterator[sqlite3.Connection]:
        """The index to write to: everything in the block, or nothing."""
        if self.lock is None:
            raise FvfastError(f"the store {self.folder} is open for reading only")
        with self._plainly():
            self.connection.execute("BEGIN IMMEDIATE")
            try:
                yield self.connection
            except BaseException:
                if self.connection.in_transaction:
                    self.connection.rollback()
                raise
            self.connection.commit()

    @contextlib.contextmanager
    def _plainly(self) -> Iterator[None]:
        """SQLite's errors as sentences."""
        try:
            yield
        except sqlite3.DatabaseError as error:
            raise FvfastError(
                f"the index of the store {self.folder} cannot be used ({error}): make room if the disk is full, or "
                "use another --store"
            ) from error


def _add_trace(connection: sqlite3.Connection, made: Made) -> None:
    (render,) = connection.execute("SELECT id FROM renders WHERE key = ?", (made.entry.key,)).fetchone()
    if made.history:
        connection.execute("INSERT INTO traces VALUES (?, ?)", (render, made.history))
    rows = [(render, step, _snapshot_file(data)) for step, data in made.snapshots]
    connection.executemany("INSERT INTO snapshots VALUES (?, ?, ?)", rows)


def _snapshot_file(data: bytes) -> str:
    return blobs.address("snapshots", data, "webp")


def _entry(values: dict[str, Any]) -> Entry:
    for name in ("objective_start", "objective_end"):
        if values[name] is None:  # SQLite's spelling of a value that is not a number
            values[name] = float("nan")
    return Entry(**{**values, "recipe": json.loads(values["recipe"])})


def _connect(path: Path, write: bool) -> sqlite3.Connection:
    if write:
        connection = sqlite3.connect(path, timeout=30, isolation_level=None)
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = NORMAL")
        return connection
    # Several threads may share a reader, as a dashboard's do: SQLite itself takes them in turn.
    connection = sqlite3.connect(path, timeout=30, isolation_level=None, check_same_thread=False)
    try:
        connection.execute("PRAGMA query_only = ON")
        connection.execute("PRAGMA user_version").fetchone()
        connection.execute("SELECT count(*) FROM sqlite_master").fetchone()
        return connection
    except sqlite3.OperationalError:  # a medium that cannot be written to, where WAL has no room for its own files
        connection.close()
        return sqlite3.connect(f"{path.absolute().as_uri()}?immutable=1", uri=True, check_same_thread=False)
