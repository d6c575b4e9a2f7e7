"""The queue of renders and dreams: one a server, shared by all its pages, worked off by one child process.

The child imports torch, so that whatever a device or a network does to its process never reaches a page; one that dies
takes its job with it, and the next job gets a new one. Nothing here knows Streamlit.
"""

from __future__ import annotations

import base64
import contextlib
import copy
import json
import os
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

from fvfast.errors import FvfastError
from fvfast_dashboard import asking, settings
from fvfast_dashboard.asking import Request

OPEN = ("queued", "running")
CLOSED = ("finished", "cancelled", "failed")
MOST_WAITING = 50
REMEMBERED = 30  # jobs that have ended
LOG_TAIL = 4000  # characters
PATIENCE_S = 30.0  # from asking a job to stop until its process is ended by force


@dataclass
class Shot:
    """An image on its way: steps taken, a WebP, and (step, objective) so far."""

    step: int
    image: bytes
    curve: list[tuple[int, float]]


@dataclass
class Job:
    """What was asked for, and how far it is.

    state: queued, running, finished, cancelled or failed; sentence: what it is at or what went wrong, for people.
    done, total: steps, over all images (total is 0 where it is unknown); part: of the work, 0 to 1; seconds: of
    rendering. shots: by the image's row. keys, targets, objectives: of what was kept in the store; file: of a dream.
    log: the end of what the worker wrote, where it broke down. asked_to_stop: whether someone cancelled it.
    """

    number: int
    request: Request
    token: str
    state: str = "queued"
    sentence: str = ""
    created: float = field(default_factory=time.time)
    started: float | None = None
    ended: float | None = None
    done: int = 0
    total: int = 0
    part: float = 0.0
    seconds: float = 0.0
    shots: dict[int, Shot] = field(default_factory=dict)
    keys: list[str] = field(default_factory=list)
    targets: list[str] = field(default_factory=list)
    objectives: list[float | None] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    file: str = ""
    log: str = ""
    asked_to_stop: bool = False

    @property
    def open(self) -> bool:
        return self.state in OPEN

    @property
    def rate(self) -> float | None:
        """Steps a second; None before it is known."""
        return self.done / self.seconds if self.seconds > 0.3 and self.done else None

    @property
    def seconds_left(self) -> float | None:
        """At this rate; None before it is known."""
        return self.seconds * (1 - self.part) / self.part if self.seconds > 0.3 and self.part > 0 else None


class Desk:
    """Takes requests, has them worked off one after another, and knows how far each is. Any thread may call it."""

    def __init__(self, store: Path, command: list[str] | None = None) -> None:
        """store: the folder to keep renders in; command: what starts a worker, for tests."""
        self.store = store.absolute()
        self.folder = Path(tempfile.mkdtemp(prefix="fvfast-dashboard-"))  # uploads, dreams, the worker's log
        self._command = command or [sys.executable, "-P", "-m", "fvfast_dashboard.worker"]
        self._jobs: dict[int, Job] = {}
        self._changed = threading.Condition()
        self._worker: Worker | None = None
        self._closing = False
        self._count = 0
        self._thread = threading.Thread(target=self._serve, name="fvfast-desk", daemon=True)
        self._thread.start()

    # What pages call -------------------------------------------------------------------------------------------

    def submit(self, request: Request, code: bool = False) -> Job:
        """Put a request at the end of the queue. Raises FvfastError for what no page may ask, and where it is full."""
        request.check(code)
        with self._changed:
            if self._closing:
                raise FvfastError("the dashboard is closing")
            if sum(job.open for job in self._jobs.values()) >= MOST_WAITING:
                raise FvfastError(f"{MOST_WAITING} jobs are waiting: let some of them finish first")
            self._count += 1
            job = Job(self._count, request, secrets.token_hex(8))
            self._jobs[job.number] = job
            self._changed.notify_all()
            return copy.copy(job)

    def cancel(self, number: int) -> None:
        """Have a job end: now where it waits, after its step where it runs; what there is of it is kept."""
        with self._changed:
            job = self._jobs.get(number)
            if job is None or not job.open or job.asked_to_stop:
                return
            job.asked_to_stop = True
            if job.state == "queued":
                self._end(job, "cancelled", "")
                return
            job.sentence = "stopping after this step"
            worker = self._worker
        if worker is not None:
            worker.say({"cancel": number})
            timer = threading.Timer(PATIENCE_S, self._force, [number, worker])
            timer.daemon = True
            timer.start()

    def busy(self) -> bool:
        """Whether a job is running."""
        with self._changed:
            return any(job.state == "running" for job in self._jobs.values())

    def forget(self, number: int) -> None:
        """Take a job that has ended off the list."""
        with self._changed:
            if number in self._jobs and not self._jobs[number].open:
                del self._jobs[number]

    def jobs(self) -> list[Job]:
        """How far all jobs are, the newest first; copies, which nothing changes any more."""
        with self._changed:
            return [_frozen(job) for job in reversed(self._jobs.values())]

    def job(self, number: int) -> Job | None:
        """How far one is; None where it is not on the list any more."""
        with self._changed:
            job = self._jobs.get(number)
            return None if job is None else _frozen(job)

    def wait(self, number: int, timeout: float) -> Job:
        """The job when it has ended. Raises TimeoutError."""
        with self._changed:
            if not self._changed.wait_for(lambda: not self._jobs[number].open, timeout):
                raise TimeoutError(f"job {number} is still {self._jobs[number].state}")
            return _frozen(self._jobs[number])

    def close(self) -> None:
        """End the worker, after its step, with what there is of its job kept; forget what waits."""
        with self._changed:
            self._closing = True
            for job in self._jobs.values():
                if job.state == "queued":
                    self._end(job, "cancelled", "the dashboard was closed")
            self._changed.notify_all()
            worker = self._worker
            begun = any(job.state == "running" and job.done for job in self._jobs.values())
        if worker is not None:
            worker.leave()
            if not begun:  # there is nothing to wait for
                worker.kill()
        self._thread.join(PATIENCE_S)
        if worker is not None:
            worker.kill()
        shutil.rmtree(self.folder, ignore_errors=True)

    # The thread that minds the worker --------------------------------------------------------------------------

    def _serve(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._closing or self._next() is not None)
                job = self._next()
                if self._closing or job is None:
                    break
                job.state, job.started, job.sentence = "running", time.time(), "starting the worker"
                try:
                    self._worker = self._worker or Worker(self._command, self.folder / "worker.log")
                except OSError as error:
                    self._end(job, "failed", f"the worker could not be started ({error.strerror})")
                    continue
                worker = self._worker
            self._follow(job, worker)
        if self._worker is not None:
            self._worker.leave()

    def _next(self) -> Job | None:
        return next((job for job in self._jobs.values() if job.state == "queued"), None)

    def _follow(self, job: Job, worker: Worker) -> None:
        """Hand a job to the worker, and take note of what it says until the job has ended."""
        message = {"number": job.number, "store": str(self.store), "request": asking.to_dict(job.request)}
        worker.say(message)
        with self._changed:
            if job.asked_to_stop:
                worker.say({"cancel": job.number})
        while (event := worker.hear()) is not None:
            if event.get("number") != job.number:
                continue
            with self._changed:
                over = self._note(job, event)
                if over and job.state == "failed" and event.get("bug"):
                    job.log = worker.log_tail()
                self._changed.notify_all()
            if over:
                worker.begin_log()
                if event.get("bug"):  # it ends by itself
                    worker.kill()
                    self._worker = None
                return
        code = worker.kill()
        with self._changed:
            self._worker = None
            if job.asked_to_stop:
                self._end(job, "cancelled", "it did not stop by itself and was ended; nothing of it was kept")
            else:
                self._end(job, "failed", _last_words(code))
            job.log = worker.log_tail()
            self._changed.notify_all()

    def _note(self, job: Job, event: dict[str, Any]) -> bool:
        """Take note of an event; whether it is the job's last."""
        match event["event"]:
            case "stage":
                job.sentence = event["sentence"]
            case "note":
                job.notes.append(event["sentence"])
            case "progress":
                job.done, job.total, job.seconds = event["done"], event.get("total", 0), event["seconds"]
                job.part = event.get("part", job.done / max(1, job.total))
                job.sentence = "stopping after this step" if job.asked_to_stop else event.get("stage", "")
            case "preview":
                image = base64.b64decode(event["image"])
                job.shots[event["row"]] = Shot(event["step"], image, [(s, v) for s, v in event["curve"]])
            case "finished" | "cancelled" | "failed" as state:
                job.keys, job.targets = event.get("keys", []), event.get("targets", [])
                job.objectives, job.file = event.get("objectives", []), event.get("file", "")
                job.seconds = event.get("seconds", job.seconds)
                told = [*event.get("notes", []), *event.get("failures", [])]
                job.notes += [sentence for sentence in told if sentence not in job.notes]
                self._end(job, state, event.get("sentence", ""))
                return True
        return False

    def _end(self, job: Job, state: str, sentence: str) -> None:
        job.state, job.sentence, job.ended = state, sentence, time.time()
        ended = [number for number, other in self._jobs.items() if not other.open]
        for number in ended[:-REMEMBERED]:
            del self._jobs[number]
        self._changed.notify_all()

    def _force(self, number: int, worker: Worker) -> None:
        with self._changed:
            job = self._jobs.get(number)
            still = job is not None and job.state == "running"
        if still:
            worker.kill()


class Worker:
    """The child process, in a session of its own: a Ctrl-C in the server's terminal does not reach it."""

    def __init__(self, command: list[str], log: Path) -> None:
        """log: the file for what it writes besides events. Raises OSError."""
        self._log = log
        self.begin_log()  # before it runs: its first words may be its last
        with log.open("ab") as errors:
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                text=True,
                encoding="utf-8",
                env=asking.environment(),
                start_new_session=True,
            )
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._in: IO[str] = self._process.stdin
        self._out: IO[str] = self._process.stdout
        self._lock = threading.Lock()

    def say(self, message: dict[str, Any]) -> None:
        """Tell it something; one that is dead does not hear it, which `hear` says."""
        with self._lock, contextlib.suppress(OSError, ValueError):
            self._in.write(json.dumps(message) + "\n")
            self._in.flush()

    def hear(self) -> dict[str, Any] | None:
        """The next event; None when there are no more."""
        try:
            line = self._out.readline()
            return json.loads(line) if line else None
        except (OSError, ValueError):
            return None

    def leave(self) -> None:
        """Ask it to stop what it is at, keep what there is, and end."""
        with self._lock, contextlib.suppress(OSError):
            self._in.close()

    def kill(self) -> int:
        """End it, with all that it has started, unless it has ended. Returns its exit status."""
        try:
            return self._process.wait(0.5)
        except subprocess.TimeoutExpired:
            pass
        with contextlib.suppress(OSError):
            if os.name == "posix":
                os.killpg(self._process.pid, signal.SIGKILL)
            else:
                self._process.kill()
        return self._process.wait()

    def begin_log(self) -> None:
        """From here on, the log is that of another job."""
        self._log_from = self._log_size()

    def log_tail(self) -> str:
        """The end of what it has written for the job at hand."""
        try:
            with self._log.open("rb") as file:
                file.seek(max(self._log_from, self._log_size() - LOG_TAIL))
                return file.read().decode("utf-8", "replace").strip()
        except OSError:
            return ""

    def _log_size(self) -> int:
        return self._log.stat().st_size if self._log.exists() else 0


def _frozen(job: Job) -> Job:
    copied = copy.copy(job)
    copied.shots, copied.notes = dict(job.shots), list(job.notes)
    return copied


def _last_words(code: int) -> str:
    if code < 0:
        name = signal.Signals(-code).name if -code in set(signal.Signals) else f"signal {-code}"
        memory = ", as when memory runs out" if -code == signal.SIGKILL else ""
        return f"the worker process was killed ({name}{memory}): try a smaller size or fewer images"
    return f"the worker process ended by itself (exit status {code}): its last words are in the log"


# One desk a server -----------------------------------------------------------------------------------------

_desks: dict[Path, Desk] = {}
_desks_lock = threading.Lock()


def desk() -> Desk:
    """The desk of the store that the dashboard shows; made at the first call, the same for every page and session."""
    store = settings.store_folder().absolute()
    with _desks_lock:
        if store not in _desks:
            _desks[store] = Desk(store)
        return _desks[store]


def close() -> None:
    """Close every desk: at the end of the server."""
    with _desks_lock:
        found = list(_desks.values())
        _desks.clear()
    for one in found:
        if one.busy():
            print("fvfast: stopping the render after its step, to keep what there is", file=sys.stderr, flush=True)
        one.close()
