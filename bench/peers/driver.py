"""Contenders in turns: A B C, A B C, ..., each in a process of its own that waits, warm, while the others run."""

from __future__ import annotations

import contextlib
import json
import os
import statistics
import subprocess
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np
import torch

from bench.peers import contenders
from bench.peers.contenders import ROOT, Contender
from bench.peers.judge import Judge
from bench.peers.task import LEAST, Task
from fvfast import files
from fvfast.errors import FvfastError

FEATURE_STEPS = 128  # what features/s counts as one feature: the default recipe's steps


@dataclass(frozen=True)
class Cell:
    """What is the same for all contenders: one table, whose rows they are. target: as written, such as _blocks.10:3."""

    size: int
    target: str
    batch: int

    @property
    def label(self) -> str:
        return f"{self.size} px, {self.target}" + (f", batch {self.batch}" if self.batch > 1 else "")


@dataclass(frozen=True)
class Settings:
    """steps: of a full turn; seconds: how long a turn may take after a contender's first, or it is shortened."""

    steps: int
    rounds: int
    threads: int
    device: str
    seconds: float


Report = Callable[[Cell, int, Contender, dict[str, Any]], None]


class Worker:
    """A contender's process. Use as a context manager."""

    def __init__(self, contender: Contender, settings: Settings, folder: Path) -> None:
        self.contender, self.log = contender, folder / f"{contender.name}.log"
        processors = [str(p) for p in allowed(settings.threads)] if settings.device == "cpu" else []
        self._log: IO[bytes] = self.log.open("ab")
        self.process = subprocess.Popen(
            [*command(contender), *processors],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
            text=True,
            cwd=ROOT,
            env=environment(settings),
            start_new_session=True,  # Ctrl-C is the driver's: it ends the workers itself
        )

    def ask(self, task: Task) -> dict[str, Any]:
        """Have a task done. Raises FvfastError where the process ends instead of answering."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        with contextlib.suppress(BrokenPipeError):
            self.process.stdin.write(json.dumps(asdict(task)) + "\n")
            self.process.stdin.flush()
        line = self.process.stdout.readline()
        if line:
            return json.loads(line)
        said = self.log.read_text(errors="replace").strip().splitlines()
        raise FvfastError(f"{self.contender.name} failed: {said[-1].strip() if said else 'it said nothing'}")

    def __enter__(self) -> Worker:
        return self

    def __exit__(self, *exc: object) -> None:
        self.process.kill()
        self.process.communicate()
        self._log.close()


def command(contender: Contender) -> list[str]:
    """What starts a contender's process, but for the processors that it may use."""
    return [str(contender.python), "-W", "ignore", "-m", "bench.peers.worker", contender.name]


def environment(settings: Settings) -> dict[str, str]:
    """This checkout before any installed fvfast, as many threads as asked for, and no GPU behind anybody's back."""
    paths = os.pathsep.join(str(path) for path in (ROOT, ROOT / "kernels", ROOT / "dashboard"))
    threads = {name: str(settings.threads) for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS")}
    hidden = {"CUDA_VISIBLE_DEVICES": ""} if settings.device == "cpu" else {}
    return {**os.environ, **threads, **hidden, "PYTHONPATH": paths}


def allowed(threads: int) -> list[int]:
    """The processors that all contenders share; none where the system does not pin processes."""
    return sorted(os.sched_getaffinity(0))[:threads] if hasattr(os, "sched_getaffinity") else []


def shortened(settings: Settings, rate: float | None) -> int:
    """How many steps a turn has: all, or fewer for who would take longer than `settings.seconds` at `rate` steps/s."""
    if rate is None:
        return settings.steps
    return max(LEAST, min(settings.steps, int(rate * settings.seconds)))


def measure(
    cell: Cell, able: Sequence[Contender], settings: Settings, judge: Judge, report: Report
) -> list[dict[str, Any]]:
    """The rows of one cell: of those who are able to take part, in their order.

    Every process is warmed up by a short turn. The first round's turns have all the steps, and tell the final
    objective; later ones are shortened where that saves time. The images of the last full turn are left in
    .peers/images. Who fails is left out of the later rounds, and its row says why.
    """
    layer, _ = judge.feature(cell.target)
    channels = judge.channels(cell.target, cell.batch)
    answers: dict[str, list[dict[str, Any]]] = {contender.name: [] for contender in able}
    failures: dict[str, str] = {}
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="peers-")))
        canvas = folder / "canvas.npy"
        workers = [stack.enter_context(Worker(contender, settings, folder)) for contender in able]
        for number in range(-1, settings.rounds):  # -1: the warm-up
            for worker in workers:
                name = worker.contender.name
                if name in failures:
                    continue
                rate = answers[name][0]["steps_per_s"] if answers[name] else None
                steps = LEAST if number < 0 else shortened(settings, rate)
                task = Task(
                    layer, channels, cell.size, steps, number + 1, settings.device, settings.threads, str(canvas)
                )
                try:
                    answer = {**worker.ask(task), "steps": steps}
                except FvfastError as error:
                    failures[name] = str(error)
                    report(cell, number, worker.contender, {"failed": str(error)})
                    continue
                if number >= 0 and steps == settings.steps:
                    images = torch.from_numpy(np.load(canvas))
                    answer["objectives"] = judge(images, layer, channels)
                    _keep(images, cell, name)
                if number >= 0:
                    answers[name].append(answer)
                report(cell, number, worker.contender, answer)
    return [row(cell, c, settings, answers[c.name], failures.get(c.name)) for c in able]


def row(
    cell: Cell,
    contender: Contender,
    settings: Settings,
    answers: Sequence[dict[str, Any]],
    failure: str | None = None,
) -> dict[str, Any]:
    """What a contender's turns come to: medians, the rounds that they are of, and who it was; or why it has none."""
    who = {"contender": contender.name, **asdict(cell), "steps": settings.steps, "note": contender.note}
    if failure:
        return {**who, "failed": failure}
    rates = [answer["steps_per_s"] for answer in answers]
    ends = [answer["objectives"] for answer in answers if "objectives" in answer]
    rate = statistics.median(rates)
    return {
        **who,
        "version": answers[0]["version"],
        "shims": list(contender.shims),
        "dtype": answers[0]["dtype"],
        "steps_per_s": rate,
        "features_per_s": rate * cell.batch / FEATURE_STEPS,
        "peak_bytes": max(answer["peak_bytes"] for answer in answers),
        "objective": statistics.median(value for end in ends for value in end),
        "rounds": rates,
        "round_steps": [answer["steps"] for answer in answers],
        "objectives": ends,
    }


def ratios(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Each of fvfast's recipes over every other contender of its cell: steps/s of one round over those of the same."""
    sound = [row for row in rows if "failed" not in row]
    found: list[dict[str, Any]] = []
    for over in sound:
        cell = {key: over[key] for key in ("size", "target", "batch")}
        for under in sound:
            if not over["contender"].startswith("fvfast") or over is under or not cell.items() <= under.items():
                continue
            pairs = [a / b for a, b in zip(over["rounds"], under["rounds"], strict=True)]
            who = {"over": over["contender"], "under": under["contender"]}
            spread = {"min": min(pairs), "median": statistics.median(pairs), "max": max(pairs)}
            found.append({**cell, **who, **spread})
    return found


def _keep(images: torch.Tensor, cell: Cell, name: str) -> None:
    folder = contenders.HOME / "images" / cell.label.replace(", ", "-").replace(" ", "").replace(":", "-")
    folder.mkdir(parents=True, exist_ok=True)
    for i, image in enumerate(images):
        files.to_pil(image).save(folder / f"{name}-{i}.png")
