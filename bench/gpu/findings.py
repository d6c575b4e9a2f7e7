"""What a stage of the report has found so far, in a file that is whole at any moment, and how much time it has left."""

from __future__ import annotations

import argparse
import faulthandler
import json
import os
import signal
import sys
import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

DEADLINE = "FVFAST_BENCH_DEADLINE"  # when the stage will be ended, in seconds since the epoch
FAULT = "FVFAST_BENCH_FAULT"  # for rehearsals: "kernels=crash,atlas=hang", after the stage's first case
LAST_WORDS_S = 0.7  # before a stage is ended, it tells where it is
STAGE = "FVFAST_BENCH_STAGE"  # the stage's name


def write_whole(path: Path, text: str) -> None:
    """Put text into a file in one piece: a reader finds the old or the new, whatever happens on the way."""
    unfinished = path.with_name(path.name + ".part")
    unfinished.write_text(text)
    os.replace(unfinished, path)


def seconds_left() -> float:
    """Seconds until this stage is ended from outside; infinite where it runs by itself."""
    deadline = os.environ.get(DEADLINE)
    return float(deadline) - time.time() if deadline else float("inf")


class Findings:
    """A stage's rows, one a case, and what it says besides; written anew with every case.

    path: where to; None to keep them in memory. about: what is true of the whole stage.
    """

    def __init__(self, path: Path | None, **about: Any) -> None:
        self.path = path
        self.document: dict[str, Any] = {**about, "rows": []}
        # A crash says where it was, and so does what hangs, before it is ended; past whoever captures stderr.
        self._stderr = os.fdopen(os.dup(2), "w")
        faulthandler.enable(self._stderr)
        if seconds_left() < float("inf"):
            faulthandler.dump_traceback_later(max(0.2, seconds_left() - LAST_WORDS_S), file=self._stderr)

    @property
    def rows(self) -> list[dict[str, Any]]:
        return self.document["rows"]

    def add(self, row: dict[str, Any], to: str = "rows") -> None:
        """Keep one case more, in the list of this name."""
        self.document.setdefault(to, []).append(row)
        self.write()
        _plant_fault()

    def say(self, **about: Any) -> None:
        """Keep what is true of the whole stage."""
        self.document |= about
        self.write()

    def write(self) -> None:
        """The file again; `add` and `say` do it by themselves."""
        if self.path:
            write_whole(self.path, json.dumps(self.document, indent=1) + "\n")

    @contextmanager
    def case(self, name: str, to: str = "rows") -> Iterator[dict[str, Any]]:
        """A row to fill in, for the list `to`. What is raised inside becomes its failure, and the stage goes on."""
        row: dict[str, Any] = {"case": name}
        started = time.perf_counter()
        try:
            yield row
        except Exception as error:
            first = (str(error).strip().splitlines() or [""])[0]
            row |= {"failed": f"{type(error).__name__}: {first[:300]}", "traceback": traceback.format_exc(limit=-12)}
            row["passed"] = False
        row["seconds"] = round(time.perf_counter() - started, 3)
        words = row.get("failed") or row.get("words", "")
        print(f"{name}: {words} ({row['seconds']:.1f} s)", flush=True)
        self.add(row, to)

    def end(self) -> int:
        """Say that the stage has done all it had to, and return its exit status: 0 if it passed, else 1.

        What a process takes to end after that, with its drivers and pools of workers, nobody waits for.
        """
        faulthandler.cancel_dump_traceback_later()
        self.say(finished=True, passed=self.passed)
        sys.stdout.flush()
        return 0 if self.passed else 1

    @property
    def passed(self) -> bool:
        """Whether there is a case, and none failed, in any list."""
        rows = [row for rows in self.document.values() if isinstance(rows, list) for row in rows]
        rows = [row for row in rows if isinstance(row, dict)]
        return bool(rows) and all(row.get("passed", True) for row in rows)


def stage_parser(about: str | None) -> argparse.ArgumentParser:
    """The options that every stage takes: --json FILE and --quick."""
    parser = argparse.ArgumentParser(description=about, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, metavar="FILE", help="write what is found here, anew after every case")
    parser.add_argument("--quick", action="store_true", help="few and small cases, to see that it runs")
    return parser


def needs_gpu(command: str) -> bool:
    """Whether there is an NVIDIA GPU; where there is none, one sentence says so on stderr."""
    import torch

    if torch.cuda.is_available():
        return True
    print(f"{command} needs an NVIDIA GPU: torch finds none here.", file=sys.stderr)
    return False


def _plant_fault() -> None:
    """In a rehearsal: crash here or hang here, if that is what this stage is to do."""
    faults = dict(one.split("=") for one in os.environ.get(FAULT, "").split(",") if "=" in one)
    fault = faults.get(os.environ.get(STAGE, ""))
    if fault == "crash":
        print("a planted crash", flush=True)
        os.kill(os.getpid(), signal.SIGSEGV)
    if fault == "hang":
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        print("a planted hang", flush=True)
        while True:
            time.sleep(60)
