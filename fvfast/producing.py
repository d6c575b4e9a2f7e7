"""One chunk of an atlas from plan to bytes: the same on this machine and on a worker elsewhere."""

from __future__ import annotations

import dataclasses
import datetime
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import fvfast
from fvfast import blobs, files, targets
from fvfast.errors import FvfastError, is_out_of_memory
from fvfast.identity import render_key
from fvfast.objectives import Channel
from fvfast.optimize import OutOfMemory
from fvfast.result import Progress, Render
from fvfast.session import ImagePlan, Job, Session
from fvfast.store import Entry, Made


@dataclass(frozen=True)
class Options:
    """How to render, as far as it does not determine what comes out.

    batch: images in one tensor, None for what suits the device; threads: for each image on a CPU; workers: images
    side by side on a CPU, None for what suits the machine. image_format: "png" or "webp".
    """

    batch: int | None = None
    threads: int | None = None
    workers: int | None = None
    image_format: str = "png"


@dataclass
class Chunk:
    """What came of a chunk: finished renders; a sentence for each target that failed; whether it was stopped."""

    made: list[Made] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)
    interrupted: bool = False


def key_of(job: Job, image: ImagePlan, weights: str) -> str:
    """The key under which a planned image will be kept."""
    spec = {
        "target": targets.label(image.objective, job.model),
        "recipe": image.recipe.to_dict(),
        "size": job.size,
        "seed": image.seed,
        "dtype": str(job.dtype).removeprefix("torch."),
    }
    return render_key(spec, job.model, weights)


def produce(
    job: Job,
    plan: Sequence[ImagePlan],
    weights: str,
    options: Options,
    *,
    progress: Callable[[Progress], None] | None = None,
    stop: Callable[[], bool] | None = None,
    notify: Callable[[str], None] = lambda _: None,
) -> Chunk:
    """Render a chunk and encode what was finished; images that a stop cut short are left out.

    weights: the model's digest. Raises FvfastError where memory does not do even for one image.
    """
    plan = [dataclasses.replace(image, row=row) for row, image in enumerate(plan)]
    session = Session(job, plan, options.batch, options.threads, None, progress, stop, notify)
    if options.workers is not None:
        session.workers = options.workers
    try:
        result = session.render()
    except FvfastError as error:
        if isinstance(error.__cause__, OutOfMemory):
            raise
        stopped = session.interrupted
        return Chunk(failures=[] if stopped else [str(error)], interrupted=stopped)
    except Exception as error:
        if not is_out_of_memory(error):
            raise
        raise FvfastError(
            f"memory ran out with images of {job.size} px: use a smaller --size or fewer steps"
        ) from error
    wanted = {key_of(job, image, weights): image for image in plan}
    made = []
    for row, spec in enumerate(result.specs):
        key = render_key(spec, job.model, weights)
        if key in wanted:
            made.append(_made(job, wanted[key], result, row, key, weights, options.image_format))
    return Chunk(made, result.failures, result.interrupted)


def _made(job: Job, image: ImagePlan, result: Render, row: int, key: str, weights: str, image_format: str) -> Made:
    objective = image.objective
    assert isinstance(objective, Channel)
    spec: dict[str, Any] = result.specs[row]
    picture = files.to_pil(result.images[row])
    data, small = blobs.encode(picture, image_format, spec), blobs.thumbnail(picture)
    target = spec["target"]
    entry = Entry(
        key=key,
        model=job.model.name,
        weights=job.model.weights,
        weights_digest=weights,
        layer=objective.layer,
        depth=list(job.layers).index(objective.layer),
        channel=objective.channel,
        target=target,
        recipe=spec["recipe"],
        seed=image.seed,
        size=job.size,
        steps=spec["steps"],
        objective_start=float(result.objective_start[row]),
        objective_end=float(result.objective[row]),
        seconds=result.seconds / len(result),
        device=result.device,
        path=result.path,
        dtype=result.dtype,
        version=fvfast.__version__,
        created=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        note=next((note for note in result.notes if note.startswith(f"{target} ")), ""),
        image=blobs.address("images", data, image_format),
        thumbnail=blobs.address("thumbnails", small, "webp"),
    )
    return Made(entry, data, small)
