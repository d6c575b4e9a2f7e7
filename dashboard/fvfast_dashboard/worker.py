"""The child process that renders: requests on its standard input, events on its standard output, JSON by the line.

It lives as long as the server wants it to: when its input ends, it stops what it is at, keeps what there is, and
leaves.
"""

from __future__ import annotations

import base64
import contextlib
import json
import math
import os
import queue
import sys
import threading
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fvfast.errors import FvfastError
from fvfast_dashboard.asking import DreamRequest, RenderRequest, from_dict

if TYPE_CHECKING:
    from torch import Tensor

    from fvfast.models import Model
    from fvfast.previews import Preview
    from fvfast.result import Progress, Render
    from fvfast.store import Entry

SHOWN = 8  # images of a render that are shown on their way
SIDE = 512  # pixels of a preview's longer side
POINTS = 200  # of a curve
INTERVAL_S = 0.4  # between previews of a dream
PATIENCE_S = 3600.0  # for another process that writes to the store

Send = Callable[..., None]


class Inbox:
    """What the server says, read by a thread of its own: requests one after another, and when to stop."""

    def __init__(self) -> None:
        self.requests: queue.Queue[dict[str, Any] | None] = queue.Queue()
        self.current = 0
        self.cancelled: set[int] = set()
        self.leaving = False
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self) -> None:
        for line in sys.stdin:
            message = json.loads(line)
            if "cancel" in message:
                self.cancelled.add(message["cancel"])
            else:
                self.requests.put(message)
        self.leaving = True
        self.requests.put(None)

    def stop(self) -> bool:
        """Whether the request at hand is to end."""
        return self.leaving or self.current in self.cancelled


def main() -> None:
    """Serve requests until there is no server any more."""
    with contextlib.suppress(OSError, AttributeError):
        os.nice(5)  # pages come first
    # Whatever a network or a library prints must not get among the events.
    events = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    lock = threading.Lock()

    def send(event: str, **values: Any) -> None:
        # A server that is gone hears nothing; the images are kept all the same.
        with lock, contextlib.suppress(OSError):
            print(json.dumps({"event": event, "number": inbox.current, **values}), file=events, flush=True)

    inbox = Inbox()
    while (message := inbox.requests.get()) is not None:
        inbox.current = message["number"]
        try:
            request = from_dict(message["request"])
            if isinstance(request, RenderRequest):
                _render(request, Path(message["store"]), send, inbox.stop)
            else:
                _dream(request, send, inbox.stop)
        except FvfastError as error:
            send("cancelled" if inbox.stop() else "failed", sentence=str(error))
        except Exception as error:
            traceback.print_exc()
            sys.stderr.flush()
            send("failed", sentence=f"the worker met a bug: {type(error).__name__}: {_first_line(error)}", bug=True)
            sys.exit(1)  # a device may be in any state now: the next request gets a fresh process


# Renders ---------------------------------------------------------------------------------------------------

_models: dict[tuple[str, str], Model] = {}


def _render(request: RenderRequest, store: Path, send: Send, stop: Callable[[], bool]) -> None:
    send("stage", sentence=f"loading {request.model}")
    import fvfast
    from fvfast.keeping import SNAPSHOTS

    started: list[float] = []

    def progress(progress: Progress) -> None:
        if not started:
            started.append(time.perf_counter())
        seconds = time.perf_counter() - started[0]
        done, total = progress.steps_done, progress.steps_total
        send("progress", done=done, total=total, seconds=seconds)

    def preview(preview: Preview) -> None:
        if preview.row < SHOWN:
            curve = _curve(preview.history.tolist())
            send("preview", row=preview.row, step=preview.step, image=_encoded(preview.image), curve=curve)

    loaded = _model(request.model, request.weights)
    options = {name: value for name, value in request.options().items() if name != "weights"}
    result = fvfast.render(
        loaded,
        list(request.targets),
        **options,
        snapshots=SNAPSHOTS,
        progress=progress,
        preview=preview,
        stop=stop,
        notify=lambda sentence: send("note", sentence=sentence),
    )
    for row in range(min(SHOWN, len(result))):
        curve = _curve(result.history[row, : result.specs[row]["steps"]].tolist())
        send("preview", row=row, step=result.specs[row]["steps"], image=_encoded(result.images[row]), curve=curve)
    entries = _kept(store, result, send, stop)
    send(
        "cancelled" if result.interrupted else "finished",
        keys=[entry.key for entry in entries],
        targets=[entry.target for entry in entries],
        objectives=[None if math.isnan(e.objective_end) else e.objective_end for e in entries],
        failures=result.failures,
        notes=result.notes,
        seconds=result.seconds,
    )


def _model(name: str, weights: str) -> Model:
    from fvfast.models import load

    if (name, weights) not in _models:
        _models.clear()
        _models[name, weights] = load(name, weights)
    return _models[name, weights]


def _kept(store: Path, result: Render, send: Send, stop: Callable[[], bool]) -> list[Entry]:
    """Put a render into the store, as soon as nobody else writes to it."""
    from fvfast.keeping import keep
    from fvfast.lock import Locked
    from fvfast.store import Store

    give_up = time.monotonic() + PATIENCE_S
    asked_before = stop()
    while True:
        try:
            with Store(store, write=True) as writer:
                return keep(writer, result)
        except Locked as error:
            if time.monotonic() > give_up or (stop() and not asked_before):
                raise
            send("stage", sentence=f"waiting to keep the images: {error}")
            time.sleep(0.5)
            give_up = min(give_up, time.monotonic() + 5.0) if asked_before else give_up


# Dreams ----------------------------------------------------------------------------------------------------


def _dream(request: DreamRequest, send: Send, stop: Callable[[], bool]) -> None:
    send("stage", sentence="loading the network")
    from fvfast import photographs
    from fvfast.dreaming import Dreamer, DreamProgress, preset_with

    options = request.options()
    seed = options.pop("seed", 0)
    settings = preset_with(options.pop("preset"), **options)
    photograph = photographs.read(request.photo)
    next_look = 0.0
    values: list[float] = []

    def preview(picture: Tensor) -> None:
        nonlocal next_look
        if time.perf_counter() >= next_look:
            send("preview", row=0, step=len(values) + 1, image=_encoded(picture.detach().cpu()), curve=_curve(values))
            next_look = time.perf_counter() + INTERVAL_S

    def progress(progress: DreamProgress) -> None:
        values.append(progress.value)
        seconds = time.perf_counter() - started
        stage = f"octave {progress.octave} of {progress.octaves}"
        # Work is counted in pixels, steps are what people count.
        part = progress.pixels_done / max(1, progress.pixels_total)
        send("progress", done=progress.steps_done, part=part, seconds=seconds, stage=stage)

    with Dreamer("efficientnet_lite0", None, settings, seed=seed) as dreamer:
        started = time.perf_counter()
        result = dreamer.dream(photograph, progress, stop, preview)
    result.save(request.out)
    send("preview", row=0, step=result.steps, image=_encoded(result.image), curve=_curve(values))
    send(
        "cancelled" if result.interrupted else "finished",
        file=request.out,
        targets=result.targets,
        objectives=[result.objective_start, result.objective],
        notes=result.notes,
        seconds=result.seconds,
    )


# Pieces ----------------------------------------------------------------------------------------------------


def _encoded(image: Tensor) -> str:
    """An image [3, H, W] as a WebP of SIDE pixels at most, in base64."""
    from fvfast import blobs, files

    picture = files.to_pil(image)
    picture.thumbnail((SIDE, SIDE))
    return base64.b64encode(blobs.snapshot(picture)).decode()


def _curve(values: list[float]) -> list[tuple[int, float]]:
    """(step, objective) of about POINTS steps; the last among them."""
    stride = max(1, math.ceil(len(values) / POINTS))
    steps = [*range(1, len(values) + 1, stride)]
    if values and steps[-1] != len(values):
        steps.append(len(values))
    return [(step, values[step - 1]) for step in steps if math.isfinite(values[step - 1])]


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or ["without a word"])[0][:300]


if __name__ == "__main__":
    main()
