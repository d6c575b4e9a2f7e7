"""What the user's own images say of a feature, as a store keeps it: examples, and features that fire alike."""

from __future__ import annotations

import datetime
from collections.abc import Sequence
from dataclasses import astuple, dataclass, fields

from fvfast import spelling
from fvfast.store import NO_CHANNEL, Entry, Store


@dataclass(frozen=True)
class Example:
    """A place in one of the user's images that excites a channel.

    rank: 0 for the strongest; activation: of the channel there; source: the image's path; box: left, top, right and
    bottom in pixels of that image (turned upright); image: a picture of the box, as a path in the store.
    """

    channel: int
    rank: int
    activation: float
    source: str
    box_left: int
    box_top: int
    box_right: int
    box_bottom: int
    image: str


@dataclass(frozen=True)
class Neighbour:
    """A channel that fires on the same images as another. rank: 0 for the nearest; other: it; cosine: -1 to 1."""

    channel: int
    rank: int
    other: int
    cosine: float


def keep(
    store: Store,
    model: str,
    weights: str,
    layer: str,
    examples: Sequence[Example],
    neighbours: Sequence[Neighbour],
    files: dict[str, bytes],
) -> None:
    """Put a layer's examples and neighbours into a store, in place of those that were there.

    weights: the digest; files: the examples' pictures, by their path in the store.
    """
    store.put(files)
    created = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
    with store.transaction() as connection:
        for table, kind, found in (("examples", Example, examples), ("neighbours", Neighbour, neighbours)):
            connection.execute(
                f"DELETE FROM {table} WHERE layer = ? AND model = ? AND weights_digest = ?", (layer, model, weights)
            )
            names = ["model", "weights_digest", "layer", *(field.name for field in fields(kind))]
            fixed: tuple[str, ...] = (model, weights, layer)
            if table == "examples":
                names, fixed = ["created", *names], (created, *fixed)
            marks = ", ".join("?" * len(names))
            rows = [(*fixed, *astuple(one)) for one in found]
            connection.executemany(f"INSERT INTO {table} ({', '.join(names)}) VALUES ({marks})", rows)


def whole_channel(entry: Entry) -> int | None:
    """The channel that a render shows at all of its positions; None for neurons and whatever else."""
    return None if entry.channel == NO_CHANNEL or spelling.is_neuron(entry.target) else entry.channel


def examples(store: Store, entry: Entry) -> list[Example]:
    """The examples of a render's channel, the strongest first; none where none were looked for, and none for what is
    no whole channel: a neuron's own are not known."""
    return [Example(*row) for row in _rows(store, "examples", Example, entry)]


def neighbours(store: Store, entry: Entry) -> list[Neighbour]:
    """The channels that fire most like a render's own, the nearest first; none for what is no whole channel."""
    return [Neighbour(*row) for row in _rows(store, "neighbours", Neighbour, entry)]


def _rows(store: Store, table: str, kind: type, entry: Entry) -> list[tuple]:
    channel = whole_channel(entry)
    if channel is None:
        return []
    names = ", ".join(field.name for field in fields(kind))
    return store.execute(
        f"SELECT {names} FROM {table} WHERE layer = ? AND channel = ? AND model = ? AND weights_digest = ? "
        "ORDER BY rank",
        (entry.layer, channel, entry.model, entry.weights_digest),
    )
