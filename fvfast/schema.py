"""The tables of a store's index, and how an older index becomes one of today."""

from __future__ import annotations

import sqlite3

from fvfast.errors import FvfastError

# One step a version: the n-th takes an index from version n to n + 1. Steps are never changed, only added.
STEPS = (
    """
    CREATE TABLE recipes (
        id INTEGER PRIMARY KEY,
        digest TEXT NOT NULL UNIQUE,
        name TEXT NOT NULL,
        json TEXT NOT NULL
    );
    CREATE TABLE renders (
        id INTEGER PRIMARY KEY,
        key TEXT NOT NULL UNIQUE,
        model TEXT NOT NULL,
        weights TEXT NOT NULL,
        weights_digest TEXT NOT NULL,
        layer TEXT NOT NULL,
        depth INTEGER NOT NULL,
        channel INTEGER NOT NULL,
        target TEXT NOT NULL,
        recipe INTEGER NOT NULL REFERENCES recipes (id),
        seed INTEGER NOT NULL,
        size INTEGER NOT NULL,
        steps INTEGER NOT NULL,
        objective_start REAL,
        objective_end REAL,
        seconds REAL NOT NULL,
        device TEXT NOT NULL,
        path TEXT NOT NULL,
        dtype TEXT NOT NULL,
        version TEXT NOT NULL,
        created TEXT NOT NULL,
        note TEXT NOT NULL,
        image TEXT NOT NULL,
        thumbnail TEXT NOT NULL
    );
    CREATE INDEX renders_in_order ON renders (model, depth, layer, channel, seed, id, recipe, target);
    CREATE INDEX renders_by_layer ON renders (layer, channel);
    """,
    """
    CREATE TABLE examples (
        model TEXT NOT NULL,
        weights_digest TEXT NOT NULL,
        layer TEXT NOT NULL,
        channel INTEGER NOT NULL,
        rank INTEGER NOT NULL,
        activation REAL NOT NULL,
        source TEXT NOT NULL,
        box_left INTEGER NOT NULL,
        box_top INTEGER NOT NULL,
        box_right INTEGER NOT NULL,
        box_bottom INTEGER NOT NULL,
        image TEXT NOT NULL,
        created TEXT NOT NULL,
        PRIMARY KEY (layer, channel, model, weights_digest, rank)
    ) WITHOUT ROWID;
    CREATE TABLE neighbours (
        model TEXT NOT NULL,
        weights_digest TEXT NOT NULL,
        layer TEXT NOT NULL,
        channel INTEGER NOT NULL,
        rank INTEGER NOT NULL,
        other INTEGER NOT NULL,
        cosine REAL NOT NULL,
        PRIMARY KEY (layer, channel, model, weights_digest, rank)
    ) WITHOUT ROWID;
    """,
    """
    CREATE TABLE traces (
        render INTEGER PRIMARY KEY REFERENCES renders (id),
        history BLOB NOT NULL
    );
    CREATE TABLE snapshots (
        render INTEGER NOT NULL REFERENCES renders (id),
        step INTEGER NOT NULL,
        image TEXT NOT NULL,
        PRIMARY KEY (render, step)
    ) WITHOUT ROWID;
    CREATE TRIGGER render_gone AFTER DELETE ON renders BEGIN
        DELETE FROM traces WHERE render = old.id;
        DELETE FROM snapshots WHERE render = old.id;
    END;
    DROP INDEX renders_in_order;
    CREATE INDEX renders_in_order ON renders
        (model, depth, layer, channel, seed, id, recipe, target, objective_end);
    CREATE INDEX renders_by_objective ON renders (objective_end, id, model, layer, channel, recipe, target);
    CREATE INDEX renders_by_age ON renders (created, id, model, layer, channel, recipe, target, objective_end);
    """,
)
VERSION = len(STEPS)


def version(connection: sqlite3.Connection) -> int:
    """The schema version of an index; 0 for an empty one. Raises FvfastError where it is from the future."""
    found = connection.execute("PRAGMA user_version").fetchone()[0]
    if found > VERSION:
        raise FvfastError(
            f"this store has version {found}, this fvfast knows versions up to {VERSION}: update fvfast to read it"
        )
    return found


def migrate(connection: sqlite3.Connection, to: int = VERSION) -> None:
    """Bring an index to version `to`, each step whole or not at all."""
    for number in range(version(connection), to):
        # executescript commits whatever is open, so the transaction is part of the script.
        connection.executescript(f"BEGIN IMMEDIATE; {STEPS[number]} PRAGMA user_version = {number + 1}; COMMIT;")
