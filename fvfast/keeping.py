"""From a finished render to rows of a store: any render, whatever its objective."""

from __future__ import annotations

import datetime
from typing import Any

import fvfast
from fvfast import blobs, files, planes
from fvfast.errors import FvfastError
from fvfast.identity import render_key, weights_digest
from fvfast.models import Model
from fvfast.result import Render
from fvfast.store import Entry, Made, Query, Store

SNAPSHOTS = 8  # as many stages of an image as are worth keeping; `render(snapshots=...)` takes it


def keep(store: Store, render: Render, image_format: str = "png") -> list[Entry]:
    """Put a render's images into a store that is open for writing, each with its history and its snapshots.

    Returns their rows, in the render's order. An image that is there already stays as it is, and its row is that one;
    one of which no step was taken is left out.
    Raises FvfastError where the store cannot be written to.
    """
    model = render.network
    if model is None:
        raise FvfastError("only what `fvfast.render` returned can be kept: this render does not know its network")
    weights = weights_digest(model)
    made = [pack(render, row, model, weights, image_format) for row in range(len(render)) if render.specs[row]["steps"]]
    store.add(made)
    rows = {entry.key: entry for entry in store.entries(Query(keys=tuple(m.entry.key for m in made)))}
    return [rows[m.entry.key] for m in made]


def key_of(render: Render, row: int, model: Model, weights: str) -> str:
    """The key of one image of a render. weights: the model's digest."""
    more: dict[str, Any] = {**render.subjects[row].handed}
    if render.subjects[row].unsaid:
        more["objective"] = render.subjects[row].unsaid
    if _stopped_early(render, row):
        # The views of all steps are drawn ahead: the first half of a long render is no short render.
        more["planned_steps"] = render.recipes[row].steps
    return render_key(render.specs[row], model, weights, **more)


def pack(render: Render, row: int, model: Model, weights: str, image_format: str = "png") -> Made:
    """One image of a render as a store takes it. weights: the model's digest."""
    spec, of = render.specs[row], render.subjects[row]
    image = render.images[row]
    picture = files.to_pil(image)
    if planes.colours(len(image)):
        data = blobs.encode(picture, image_format, spec)
    else:
        image_format = planes.SUFFIX[1:]
        data = planes.encode(image, files.text_of(spec), files.SOFTWARE)
    small = blobs.thumbnail(picture)
    entry = Entry(
        key=key_of(render, row, model, weights),
        model=model.name,
        weights=model.weights,
        weights_digest=weights,
        layer=of.layer,
        depth=of.depth,
        channel=of.channel,
        target=spec["target"],
        recipe=spec["recipe"],
        seed=render.seeds[row],
        size=render.size,
        steps=spec["steps"],
        objective_start=float(render.objective_start[row]),
        objective_end=float(render.objective[row]),
        seconds=render.seconds / len(render),
        device=render.device,
        path=render.path,
        dtype=render.dtype,
        version=fvfast.__version__,
        created=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        note=_note(render, row),
        image=blobs.address("images", data, image_format),
        thumbnail=blobs.address("thumbnails", small, "webp"),
    )
    history = render.history[row, : spec["steps"]].numpy().astype("<f4").tobytes()
    snapshots = [
        (step, blobs.snapshot(files.to_pil(shot, opacity=len(shot) > len(image))))
        for step, shot in render.snapshots[row]
        if step < spec["steps"]
    ]
    return Made(entry, data, small, history, tuple(snapshots))


def _stopped_early(render: Render, row: int) -> bool:
    return render.specs[row]["steps"] != render.recipes[row].steps


def _note(render: Render, row: int) -> str:
    target = render.specs[row]["target"]
    notes = [note for note in render.notes if note.startswith(f"{target} ")][:1]
    if _stopped_early(render, row):
        notes.append(f"stopped after {render.specs[row]['steps']} of {render.recipes[row].steps} steps")
    return "; ".join(notes)
