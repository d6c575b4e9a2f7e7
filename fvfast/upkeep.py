"""Keeping a store sound: every row checked against its files, and what no row names removed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from fvfast import blobs
from fvfast.errors import FvfastError
from fvfast.store import Store

# Where rows name files: (table, column).
_FILES = (("renders", "image"), ("renders", "thumbnail"), ("examples", "image"), ("snapshots", "image"))


@dataclass
class Report:
    """What `verify` found.

    rows: checked; missing, damaged: files that a row names and that are not there, or hold something else; orphans:
    files that no row names; unfinished: temporary ones. All as paths in the store.
    """

    rows: int = 0
    missing: list[str] = field(default_factory=list)
    damaged: list[str] = field(default_factory=list)
    orphans: list[str] = field(default_factory=list)
    unfinished: list[str] = field(default_factory=list)

    @property
    def sound(self) -> bool:
        """Whether every row has its files. Orphans waste room and break nothing."""
        return not self.missing and not self.damaged


def verify(store: Store, progress: Callable[[int, int], None] = lambda done, total: None) -> Report:
    """Read every file of a store and compare it with its digest. progress: told (files read, files)."""
    problems = [row[0] for row in store.execute("PRAGMA integrity_check") if row[0] != "ok"]
    if problems:
        raise FvfastError(f"the index of the store {store.folder} is damaged ({problems[0]}): restore a copy of it")
    report = Report()
    # Files first: one that a writer adds meanwhile is then not taken for an orphan.
    on_disk = list(blobs.walk(store.folder))
    named = _named(store)
    report.rows = store.count()
    report.unfinished = sorted(path for path, unfinished in on_disk if unfinished)
    report.orphans = sorted(path for path, unfinished in on_disk if not unfinished and path not in named)
    for done, path in enumerate(sorted(named), 1):
        try:
            if not blobs.is_whole(store.folder / path):
                report.damaged.append(path)
        except FileNotFoundError:
            report.missing.append(path)
        except OSError:
            report.damaged.append(path)
        if done % 50 == 0 or done == len(named):
            progress(done, len(named))
    return report


def gc(store: Store) -> tuple[int, int]:
    """Remove the files that no row names, and unfinished ones. Returns (files, bytes) removed.

    The store must be open for writing: while another process writes, its newest files have no row yet.
    """
    if store.lock is None:
        raise FvfastError(f"the store {store.folder} is open for reading only")
    named = _named(store)
    count = size = 0
    for path, unfinished in list(blobs.walk(store.folder)):
        if unfinished or path not in named:
            file = store.folder / path
            size += file.stat().st_size
            file.unlink()
            count += 1
    return count, size


def drop_broken(store: Store, report: Report) -> int:
    """Take the rows out whose files are missing or damaged, so that they are made again. Returns how many."""
    broken = [(path,) for path in (*report.missing, *report.damaged)]
    count = 0
    with store.transaction() as connection:
        for table, column in _FILES:
            count += connection.executemany(f"DELETE FROM {table} WHERE {column} = ?", broken).rowcount
    for (path,) in broken:
        (store.folder / path).unlink(missing_ok=True)
    return count


def _named(store: Store) -> set[str]:
    return {path for table, column in _FILES for (path,) in store.execute(f"SELECT {column} FROM {table}")}
