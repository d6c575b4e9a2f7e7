"""The store as the pages see it: open once a server, listed once a change, its images read and kept a while."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

import streamlit as st

from fvfast.blobs import FOLDERS
from fvfast.errors import FvfastError
from fvfast.store import INDEX, Entry, Query, Store
from fvfast_dashboard import settings

_ADDRESS = re.compile(rf"(?:{'|'.join(FOLDERS)})/[0-9a-f]{{2}}/[0-9a-f]{{64}}\.(?:png|webp)")
_KEY = re.compile(r"[0-9a-f]{8,64}")


@dataclass(frozen=True)
class Listing:
    """Every render that can be read, in the store's order; damaged: how many rows cannot."""

    entries: tuple[Entry, ...]
    damaged: int = 0

    def by_key(self) -> dict[str, Entry]:
        return {entry.key: entry for entry in self.entries}


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
    return Store(folder)


def listing(store: Store) -> Listing:
    """What a store holds now."""
    # SQLite raises its data_version whenever another connection has written.
    ((version,),) = store.execute("PRAGMA data_version")
    status = (store.folder / INDEX).stat()
    return _listing(str(store.folder), status.st_ino, version, store)


@st.cache_resource(max_entries=2, show_spinner=False)
def _listing(folder: str, inode: int, version: int, _store: Store) -> Listing:
    try:
        return Listing(tuple(_store.entries()))
    except (FvfastError, ValueError):
        pass
    # Some row is damaged: the others are worth showing.
    entries, damaged = [], 0
    for (key,) in _store.execute("SELECT key FROM renders ORDER BY model, depth, layer, channel, seed, id"):
        try:
            entries += _store.entries(Query(key=str(key)))
        except (FvfastError, ValueError):
            damaged += 1
    return Listing(tuple(entries), damaged)


def find(store: Store, key: str) -> Entry:
    """The render with this key, which may be cut short to 8 digits. Raises FvfastError where there is no such one."""
    if not _KEY.fullmatch(key):
        raise FvfastError(
            "this is not the link of a feature: its key must be 8 to 64 hexadecimal digits, as the gallery's links have"
        )
    found = store.entries(Query(key=key), limit=2)
    if not found:
        raise FvfastError(f"no render in this store has the key {key[:12]}: it may be in another store")
    return found[0]


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
