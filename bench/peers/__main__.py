"""Measure fvfast against its peers, in interleaved rounds, and keep the figures in bench/results/peers.json.

    python -m bench.peers.setup                            once: an environment for each peer
    python -m bench.peers                                  224 and 128 px, one thread: about six minutes
    python -m bench.peers --layers _blocks.4:1 logits:daisy --results peers-layers
    python -m bench.peers --show                           the tables of what was measured

Ctrl-C keeps the cells (a size, a layer, a batch) that are finished; --resume goes on behind them.
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
import signal
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from bench import record
from bench.peers import driver
from bench.peers.contenders import CONTENDERS, Contender, check_ready, choose
from bench.peers.driver import Cell, Settings
from bench.peers.judge import Judge
from bench.peers.table import markdown
from bench.peers.task import LEAST
from fvfast.errors import FvfastError
from fvfast.rendering import LARGEST, pick_device

SMALLEST = 64  # pixels; torch-dreams halves its views, and horama crops a quarter


def plan(options: argparse.Namespace, judge: Judge) -> list[tuple[Cell, list[Contender]]]:
    """Every cell with those who take part in it. Raises FvfastError for what cannot be measured."""
    chosen, batched = choose(options.only), choose(options.batched)
    cells: list[tuple[Cell, list[Contender]]] = []
    for size in options.sizes:
        if not SMALLEST <= size <= LARGEST:
            raise FvfastError(f"sizes must be {SMALLEST} to {LARGEST} px, not {size}")
        for target in options.layers:
            for batch in options.batches:
                judge.channels(target, _least("batches", batch, 1))
                able = [c for c in chosen if batch == 1 or (c.batches and c in batched)]
                if able:
                    cells.append((Cell(size, target, batch), able))
    if not cells:
        raise FvfastError("nobody takes part: name who shares steps with --batched, or measure --batches 1")
    check_ready(contender for _, able in cells for contender in able)
    return cells


def settings_of(options: argparse.Namespace) -> Settings:
    device = pick_device(options.device).type
    threads = _least("threads", options.threads, 1)
    if device == "cpu" and threads > record.cores():
        raise FvfastError(f"threads must be at most {record.cores()}, the processors of this machine, not {threads}")
    steps, rounds = _least("steps", options.steps, LEAST), _least("rounds", options.rounds, 1)
    if not options.seconds > 0:
        raise FvfastError(f"seconds must be above 0, not {options.seconds}")
    return Settings(steps, rounds, threads, device, options.seconds)


def measure(
    cells: Sequence[tuple[Cell, Sequence[Contender]]],
    settings: Settings,
    judge: Judge,
    results: str,
    resume: bool,
    folder: Path = record.RESULTS,
) -> Path:
    """Measure all cells and keep them as `results`; an interrupted run leaves `results.partial`, for `resume`."""
    partial = f"{results}.partial"
    words = [shlex.quote(word) for word in sys.argv[1:] if word not in ("--resume", "--json")]
    command = " ".join(["python -m bench.peers", *words])
    more = {"settings": asdict(settings)}
    rows = _resumed(partial, settings, folder) if resume else []
    finished = {(row["size"], row["target"], row["batch"]) for row in rows}
    left = [(cell, able) for cell, able in cells if (cell.size, cell.target, cell.batch) not in finished]
    progress = Progress(left, settings)
    for cell, able in left:
        rows += driver.measure(cell, able, settings, judge, progress)
        record.save(partial, command, rows, folder, **more)
    progress.end()
    path = record.save(results, command, rows, folder, **more, ratios=driver.ratios(rows))
    (folder / f"{partial}.json").unlink(missing_ok=True)
    return path


def _resumed(partial: str, settings: Settings, folder: Path) -> list[dict[str, Any]]:
    """The rows of an interrupted run. Raises FvfastError where there is none, or where it measured something else."""
    document = record.load(partial, folder)
    if document is None:
        raise FvfastError("no interrupted run to go on with: leave out --resume")
    if document["settings"] != asdict(settings):
        raise FvfastError(
            f"the interrupted run had other settings ({document['settings']}): give the same, or leave out --resume"
        )
    if document["machine"]["commit"] != record.commit():
        raise FvfastError(f"the interrupted run measured commit {document['machine']['commit']}: leave out --resume")
    return document["rows"]


class Progress:
    """A line a turn on stderr, with how long the rest will take; on a terminal each takes the last one's place."""

    def __init__(self, cells: Sequence[tuple[Cell, Sequence[Contender]]], settings: Settings) -> None:
        self.settings = settings
        self.left = sum(len(able) * (settings.rounds + 1) for _, able in cells)
        self.done, self.started = 0, time.perf_counter()

    def __call__(self, cell: Cell, number: int, contender: Contender, answer: dict[str, Any]) -> None:
        self.done, self.left = self.done + 1, self.left - 1
        each = (time.perf_counter() - self.started) / self.done
        minutes, seconds = divmod(round(each * self.left), 60)
        stage = "warm-up" if number < 0 else f"round {number + 1}/{self.settings.rounds}"
        told = answer.get("failed") or f"{contender.name} {answer['steps_per_s']:.1f} steps/s"
        text = f"{cell.label}: {stage}, {told}; {minutes}:{seconds:02d} left"
        if sys.stderr.isatty():
            print(f"\r\x1b[K{text}", end="", file=sys.stderr, flush=True)
        else:
            print(text, file=sys.stderr, flush=True)

    def end(self) -> None:
        if sys.stderr.isatty():
            print("\r\x1b[K", end="", file=sys.stderr, flush=True)


def _interrupt(number: int, frame: object) -> None:
    """What `timeout` and schedulers send ends a run as Ctrl-C does."""
    raise KeyboardInterrupt


def _least(name: str, value: int, least: int) -> int:
    if value < least:
        raise FvfastError(f"{name} must be {least} or more, not {value}")
    return value


def parser() -> argparse.ArgumentParser:
    found = argparse.ArgumentParser(
        prog="python -m bench.peers", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    found.add_argument("--sizes", type=int, nargs="+", default=[224, 128], help="canvases in px (default 224 128)")
    found.add_argument(
        "--layers", nargs="+", default=["_blocks.10:3"], help="LAYER:CHANNEL or logits:NAME, one or more"
    )
    found.add_argument("--batches", type=int, nargs="+", default=[1, 8], help="images a step (default 1 8)")
    found.add_argument(
        "--batched",
        nargs="+",
        default=["fvfast-default"],
        help="who takes part in batches above 1 (default fvfast-default; all can but horama)",
    )
    found.add_argument("--steps", type=int, default=32, help="of a full turn (default 32)")
    found.add_argument("--rounds", type=int, default=5, help="turns of each (default 5)")
    found.add_argument("--threads", type=int, default=1, help="of each, on as many processors (default 1)")
    found.add_argument("--seconds", type=float, default=5.0, help="longest turn after a contender's first (default 5)")
    found.add_argument("--device", default="cpu", help="cpu or cuda (default cpu)")
    found.add_argument("--only", nargs="+", help=f"which of {', '.join(CONTENDERS)} (default: all)")
    found.add_argument("--results", default="peers", help="the name of the file in bench/results (default peers)")
    found.add_argument("--resume", action="store_true", help="go on with a run that was interrupted")
    found.add_argument("--show", action="store_true", help="measure nothing: print the tables of what there is")
    found.add_argument("--json", action="store_true", help="print the JSON document instead of the tables")
    return found


def main() -> int:
    options = parser().parse_args()
    before = signal.signal(signal.SIGTERM, _interrupt)
    try:
        if not options.show:
            judge, settings = Judge(), settings_of(options)
            measure(plan(options, judge), settings, judge, options.results, options.resume)
        document = record.load(options.results)
        if document is None:
            raise FvfastError(f"there is no bench/results/{options.results}.json: leave out --show to measure")
        print(json.dumps(document, indent=1) if options.json else markdown(document))
    except FvfastError as error:
        print(f"peers: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("\npeers: interrupted; --resume goes on behind the cells that are finished", file=sys.stderr)
        return 130
    except BrokenPipeError:  # `| head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    finally:
        signal.signal(signal.SIGTERM, before)
    return 0


if __name__ == "__main__":
    sys.exit(main())
