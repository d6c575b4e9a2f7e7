"""The store as the pages see it: open once a server, its rows read with care, its images read and kept a while."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path

import streamlit as st

from fvfast.blobs import FOLDERS
from fvfast.errors import FvfastError
from fvfast.store import INDEX, Entry, Query, Store, Trace
from fvfast_dashboard import settings

_ADDRESS = re.compile(rf"(?:{'|'.join(FOLDERS)})/[0-9a-f]{{2}}/[0-9a-f]{{64}}\.(?:png|webp|tif)")
_KEY = re.compile(r"[0-9a-f]{8,64}")
_BROKEN = (FvfastError, ValueError, TypeError, KeyError)  # what reading a damaged row may end in


@dataclasses.dataclass(frozen=True)
class Rows:
    """Renders of a store; damaged: how many others are left out because they cannot be read."""

    entries: list[Entry]
    damaged: int = 0


def open_store() -> Store | None:
    """The store to read from; None where there is none yet. Raises FvfastError where it cannot be read."""
    folder = settings.store_folder()
    try:
        status = (folder / INDEX).stat()
    except OSError:
        return None
    return _store(str(folder.absolute()), status.st_dev, status.st_ino)


@st.cache_resource(max_entries=2, show_spinner=False)
def _store(folder: str, device: int, inode: int) -> Store:
    # Opened again where another index has taken the place of the one that was there.
    return Store(folder)


def rows(store: Store, query: Query | None = None, limit: int | None = None, offset: int = 0) -> Rows:
    """Renders as `Store.entries` lists them, without those whose rows are damaged."""
    try:
        entries = store.entries(query, limit, offset)
        if all(map(_sound, entries)):
            return Rows(entries)
    except _BROKEN:
        pass
    entries, damaged = [], 0
    last = store.count(query) if limit is None else min(store.count(query), offset + limit)
    for at in range(offset, last):
        try:
            found = [entry for entry in store.entries(query, 1, at) if _sound(entry)]
        except _BROKEN:
            found = []
        entries += found
        damaged += not found
    return Rows(entries, damaged)


def _sound(entry: Entry) -> bool:
    """Whether every field holds what its type says; SQLite takes anything anywhere."""
    kinds = {"int": int, "float": (int, float), "str": str}
    plain = all(isinstance(getattr(entry, f.name), kinds[str(f.type)]) for f in _PLAIN)
    return plain and isinstance(entry.recipe, dict)


_PLAIN = [field for field in dataclasses.fields(Entry) if field.type in ("int", "float", "str")]


def find(store: Store, key: str) -> Entry:
    """The render with this key, which may be cut short to 8 digits. Raises FvfastError where there is no such one."""
    if not _KEY.fullmatch(key):
        raise FvfastError(
            "this is not the link of a render: its key must be 8 to 64 hexadecimal digits, as the gallery's links have"
        )
    found = rows(store, Query(key=key), limit=1)
    if found.damaged:
        folder = settings.store_folder()
        raise FvfastError(f"the row of this render is damaged: `fvfast store verify --store {folder}` tells more")
    if not found.entries:
        raise FvfastError(f"no render in this store has the key {key[:12]}: it may be in another store")
    return found.entries[0]


def of_feature(store: Store, entry: Entry) -> list[Entry]:
    """Every render of what `entry` shows, itself among them: all recipes and seeds, in the store's order."""
    same = rows(store, Query(model=entry.model, layer=entry.layer, channel=entry.channel)).entries
    return [one for one in same if one.target == entry.target and one.weights_digest == entry.weights_digest]


def beside(store: Store, entry: Entry) -> tuple[Entry | None, Entry | None]:
    """The renders before and after one in the network's order: of other features, by the same recipe if possible."""
    layer = rows(store, Query(model=entry.model, layer=entry.layer)).entries
    others = [one for one in layer if one.recipe.get("name") == entry.recipe.get("name")]
    features: dict[str, Entry] = {}
    for one in [*others, *layer]:
        features.setdefault(one.target, one)
    ordered = sorted(features.values(), key=lambda one: (one.channel, one.target))
    at = next((i for i, one in enumerate(ordered) if one.target == entry.target), 0)
    before = ordered[at - 1] if at else None
    after = ordered[at + 1] if at + 1 < len(ordered) else None
    return before or _in_layer(store, entry, -1), after or _in_layer(store, entry, 1)


def _in_layer(store: Store, entry: Entry, step: int) -> Entry | None:
    """The last render of the layer before, or the first of the layer after."""
    layers = [one["layer"] for one in store.layers() if one["model"] == entry.model]
    at = layers.index(entry.layer) + step if entry.layer in layers else -1
    if not 0 <= at < len(layers):
        return None
    query = Query(model=entry.model, layer=layers[at])
    found = rows(store, query, 1, 0 if step > 0 else max(0, store.count(query) - 1)).entries
    return found[0] if found else None


def trace(store: Store, entry: Entry) -> Trace | None:
    """How a render came about; None where that is not to be read."""
    try:
        return store.trace(entry.key)
    except _BROKEN:
        return None


@st.cache_data(max_entries=8192, show_spinner=False)
def _bytes(path: str) -> bytes:
    return Path(path).read_bytes()


def picture(store: Store, address: str) -> bytes | None:
    """The bytes of a file of the store; None where it is missing, or where a row names something else."""
    if not _ADDRESS.fullmatch(address):
        return None
    path = store.folder / address
    try:
        if address.startswith("images/"):
            return path.read_bytes()  # large ones are not kept in memory
        return _bytes(str(path))
    except OSError:
        return None
