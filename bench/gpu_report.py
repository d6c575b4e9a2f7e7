"""Everything that only a GPU can tell, in one command of under six minutes, without a network.

    python -m bench.gpu_report                        into bench/results/<device>-<date>.json, .md and .log
    python -m bench.gpu_report --budget 120 --out DIR
    python -m bench.gpu_report --only smoke steps     some stages; --skip leaves some out
    python -m bench.gpu_report --compile-only --arch 90      compile for a GPU that is not here, into .gpu-cache

Each stage is a process of its own with a time box: one that crashes or hangs is ended and named, with what it had
found, and the next one runs. The JSON file is written anew with every case of every stage, so that whatever ends the
report leaves all that was measured. docs/gpu.md says what each stage tells.
"""

from __future__ import annotations

import argparse
import datetime
import importlib.util
import itertools
import json
import os
import re
import signal
import sys
import tempfile
import time
from pathlib import Path
from types import FrameType
from typing import Any

from bench.gpu import cache, document, findings, processes, stages, weights
from bench.gpu.document import ROOT
from bench.gpu.stages import Stage
from fvfast.errors import FvfastError

BUDGET_S = 300.0
CLOSING_S = 5.0  # kept for ending what is over its time, and for the last words
MACHINE = "bench.gpu.machine"
PROBE_S = 60.0  # a first import of torch from a cold disk


class Stopped(Exception):
    """A signal asked the report to end; str() is the signal's name."""


class Report:
    """One run of the report: its document, where it is kept, and the time it has left."""

    def __init__(self, options: argparse.Namespace, chosen: list[Stage], work: Path) -> None:
        self.options, self.chosen, self.work = options, chosen, work
        self.started = time.monotonic()
        words = " ".join(sys.argv[1:])
        self.document = document.begin(
            [stage.name for stage in chosen], f"{document.COMMAND} {words}".strip(), options.budget, options.quick
        )
        self.environment = {**os.environ, "PYTHONUNBUFFERED": "1", **cache.environment(ROOT)}
        self.log = work / "log"  # until the device has said its name
        self.path: Path | None = None

    @property
    def left(self) -> float:
        """Seconds of the budget that stages may still use."""
        return self.options.budget - CLOSING_S - (time.monotonic() - self.started)

    def probe(self) -> bool:
        """Ask the machine what it is, and open the report's files; False where it has no GPU."""
        found = self.work / "machine.json"
        command = [sys.executable, "-m", MACHINE, "--json", str(found)]
        ended = processes.run(command, min(PROBE_S, self.left), self.log, ROOT, self.environment)
        if ended.code == 2:
            print(ended.output.strip().splitlines()[-1], file=sys.stderr)
            return False
        machine = document.read_found(found) or {"device": "unknown GPU", "date": datetime.date.today().isoformat()}
        machine.pop("rows", None)
        if ended.code != 0:
            machine["problem"] = f"the machine could not be asked: {ended.output[-2000:]}"
        self.document["machine"] = machine
        name = re.sub(r"[^a-z0-9]+", "-", machine["device"].lower()).strip("-")
        try:
            self.path = free_name(Path(self.options.out), f"{name}-{machine['date']}")
            text, self.log = self.log.read_bytes(), self.path.with_suffix(".log")
            self.log.write_bytes(text)
        except OSError as error:
            raise FvfastError(f"--out {self.options.out} cannot be written to ({error.strerror})") from error
        return True

    def bring_weights(self) -> None:
        """Put real weights where the stages find them, or say that there are none."""
        paths, sentence = weights.bring(ROOT, self.work / "packages")
        self.document["weights"] = sentence
        if paths:
            before = self.environment.get("PYTHONPATH")
            self.environment["PYTHONPATH"] = os.pathsep.join([*paths, *([before] if before else [])])
        self.tell(f"weights: {sentence}")

    def run(self) -> None:
        """Every stage in its turn."""
        there = [stage for stage in self.chosen if importlib.util.find_spec(stage.module)]
        for stage in self.chosen:
            entry = self.document["stages"][stage.name]
            if stage not in there:
                entry["state"] = "missing"
            elif (seconds := stages.box(there[there.index(stage) :], self.left)) == 0:
                entry["state"] = "no time"
            else:
                self.run_stage(stage, entry, seconds)
            self.write()
            spent = f" in {entry['seconds']:.0f} s" if "seconds" in entry else ""
            self.tell(f"{stage.name}: {document.STATES[entry['state']]}{spent}")

    def run_stage(self, stage: Stage, entry: dict[str, Any], seconds: float) -> None:
        """One stage in its box."""
        self.tell(f"{stage.name}: at most {seconds:.0f} s, {stage.about}")
        file = self.work / f"{stage.name}.json"
        command = [sys.executable, "-m", stage.module, "--json", str(file), *(["--quick"] * self.options.quick)]
        deadline = {findings.DEADLINE: f"{time.time() + seconds:.1f}", findings.STAGE: stage.name}
        entry |= {"state": "running", "box_s": round(seconds, 1)}
        with self.log.open("a") as log:
            log.write(f"\n===== {stage.name}: {' '.join(command[1:])}\n")
        seen, started, kernels = 0, time.monotonic(), cache.count(self.environment)

        def tick() -> bool:
            """Take over what the stage has found since, so that it is kept whatever comes; whether that is all."""
            nonlocal seen
            stamp = file.stat().st_mtime_ns if file.exists() else 0
            if stamp != seen:
                seen, entry["found"] = stamp, document.read_found(file)
                self.write()
            return bool((entry.get("found") or {}).get("finished"))

        try:
            ended = processes.run(command, seconds, self.log, ROOT, self.environment | deadline, tick)
            entry["found"] = document.read_found(file)
            code = document.exit_of(ended.code, entry["found"])
            if (ended.code or 0) < 0 and ended.seconds > seconds - 2 * findings.LAST_WORDS_S:
                code = None  # telling the stacks of a busy process in its last second may be what ended it
            entry |= {"state": document.state_of(code, ended.output), "exit": ended.code}
            if entry["state"] != "passed":
                entry["output"] = ended.output[-8000:]
        except Stopped:
            entry["state"] = "stopped"
            raise
        finally:
            entry["seconds"] = round(time.monotonic() - started, 1)
            entry["found"] = document.read_found(file)
            entry["kernels_compiled"] = cache.count(self.environment) - kernels

    def write(self) -> None:
        """The document as it stands."""
        self.document["seconds"] = round(time.monotonic() - self.started, 1)
        if self.path:
            document.write(self.document, self.path)

    def close(self, ended: str) -> None:
        """The document for the last time, and the report for people beside it."""
        self.document["ended"] = ended
        self.write()
        if self.path is None:
            return
        from bench.gpu import words

        text = words.markdown(self.document)
        findings.write_whole(self.path.with_suffix(".md"), text)
        print(json.dumps(self.document, indent=1) if self.options.json else text)

    def tell(self, sentence: str) -> None:
        """A line on stderr, with the time used and left."""
        used = time.monotonic() - self.started
        print(f"[{used:4.0f} s used, {max(0.0, self.left):4.0f} s left] {sentence}", file=sys.stderr, flush=True)


def free_name(folder: Path, name: str) -> Path:
    """The file of a new report: with a number where that day's name is taken, so that no run replaces another's."""
    folder.mkdir(parents=True, exist_ok=True)
    names = itertools.chain([name], (f"{name}-{number}" for number in itertools.count(2)))
    return next(path for path in (folder / f"{one}.json" for one in names) if not path.exists())


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    """The command's options."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", default=[], metavar="STAGE", help=f"of {', '.join(stages.NAMES)}")
    parser.add_argument("--skip", nargs="+", default=[], metavar="STAGE", help="run all but these")
    parser.add_argument("--budget", type=float, default=BUDGET_S, metavar="SECONDS", help="for all of it (300)")
    parser.add_argument("--quick", action="store_true", help="few and small cases in every stage")
    parser.add_argument("--out", default=str(document.RESULTS), metavar="FOLDER", help="where its three files go")
    parser.add_argument("--json", action="store_true", help="print the JSON document, not the tables")
    parser.add_argument("--compile-only", action="store_true", help="only fill .gpu-cache, without a GPU")
    parser.add_argument("--arch", type=int, default=90, help="with --compile-only: the GPU's architecture (90)")
    return parser.parse_args(arguments)


def main(arguments: list[str] | None = None) -> int:
    options = parse(arguments)
    try:
        chosen = stages.chosen(options.only, options.skip)
        if not CLOSING_S < options.budget < 24 * 3600:
            raise FvfastError(f"--budget takes seconds, more than {CLOSING_S:.0f}, not {options.budget:g}")
        if Path(options.out).exists() and not Path(options.out).is_dir():
            raise FvfastError(f"--out takes a folder, and {options.out} is a file")
    except FvfastError as error:
        print(error, file=sys.stderr)
        return 2
    if options.compile_only:
        command = [sys.executable, "-m", "bench.gpu.compilation", "--arch", str(options.arch)]
        os.execve(command[0], [*command, *(["--quick"] * options.quick)], {**os.environ, **cache.environment(ROOT)})
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, _stop)
    with tempfile.TemporaryDirectory(prefix="gpu-report-", ignore_cleanup_errors=True) as work:
        report = Report(options, chosen, Path(work))
        try:
            if not report.probe():
                return 2
            report.bring_weights()
            report.run()
            report.close("finished")
        except FvfastError as error:
            print(error, file=sys.stderr)
            return 2
        except Stopped as stopped:
            report.close(f"stopped by {stopped}")
            return 1
    return 0 if document.healthy(report.document) else 1


def _stop(number: int, frame: FrameType | None) -> None:
    # Once is enough: what follows is the closing, which a second signal is not to cut short.
    for other in (signal.SIGINT, signal.SIGTERM):
        signal.signal(other, signal.SIG_IGN)
    raise Stopped(signal.Signals(number).name)


if __name__ == "__main__":
    sys.exit(main())
