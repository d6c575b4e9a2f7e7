"""One chunk of an atlas from plan to bytes: the same on this machine and on a worker elsewhere."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from fvfast import keeping, targets
from fvfast.errors import FvfastError, is_out_of_memory
from fvfast.forms import AUTO
from fvfast.identity import render_key
from fvfast.job import Job
from fvfast.optimize import OutOfMemory
from fvfast.plans import ImagePlan
from fvfast.result import Progress
from fvfast.session import Session
from fvfast.store import Made


@dataclass(frozen=True)
class Options:
    """How to render, as far as it does not determine what comes out.

    batch: images in one tensor, None for what suits the device; threads: for each image on a CPU; workers: images
    side by side on a CPU, None for what suits the machine. image_format: "png" or "webp". network: its form on a GPU.
    """

    batch: int | None = None
    threads: int | None = None
    workers: int | None = None
    image_format: str = "png"
    network: str = AUTO


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
    return render_key(spec, job.model, weights, **job.handed(image.recipe))


def produce(
    job: Job,
    plan: Sequence[ImagePlan],
    weights: str,
    options: Options,
    *,
    progress: Callable[[Progress], None] | None = None,
    stop: Callable[[], bool] | None = None,
    notify: Callable[[str], None] = lambda _: None,
    left: int = 0,
) -> Chunk:
    """Render a chunk and encode what was finished; images that a stop cut short are left out.

    weights: the model's digest. left: how many images are to follow that are like these. What a GPU has captured
    stays with the job for them. Raises FvfastError where memory does not do even for one image.
    """
    plan = [dataclasses.replace(image, row=row) for row, image in enumerate(plan)]
    session = Session(job, plan, options.batch, options.threads, None, progress, stop, notify)
    session.network, session.lasting, session.ahead = options.network, True, 1 + left / max(1, len(plan))
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
    wanted = {key_of(job, image, weights) for image in plan}
    rows = [row for row in range(len(result)) if keeping.key_of(result, row, job.model, weights) in wanted]
    made = [keeping.pack(result, row, job.model, weights, options.image_format) for row in rows]
    return Chunk(made, result.failures, result.interrupted)
