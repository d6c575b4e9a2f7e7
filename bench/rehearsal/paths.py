"""Which paths of a render are captured as a CUDA graph: `python -m bench.rehearsal paths [NAME...]`.

One line a path: captured, with the nodes of each of its graphs; step by step, with the reason; or broken. The exit
status is 1 where one is not captured. Names choose paths; `--list` lists them.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import sys
import tempfile
import time
import traceback
import warnings
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

from bench.rehearsal import device
from fvfast.errors import did_you_mean

CAPTURED, STEPWISE, BROKEN = "captured", "step by step", "broken"
REFUSED = "cannot be captured"  # in what a render says of a network that runs step by step


@dataclass(frozen=True)
class Outcome:
    """How a path went. nodes: of each graph; why: what kept it from being captured; seconds: of the processor."""

    state: str
    nodes: tuple[int, ...] = ()
    why: str = ""
    seconds: float = 0.0

    def __str__(self) -> str:
        if self.state == CAPTURED:
            return f"captured, {' + '.join(map(str, self.nodes))} nodes ({self.seconds:.1f} s)"
        return f"{self.state}: {self.why}"


class Log:
    """What the stand-in device writes: captures, and what broke its rules in them."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __len__(self) -> int:
        return len(self.path.read_text().splitlines()) if self.path.exists() else 0

    def since(self, start: int) -> list[str]:
        return self.path.read_text().splitlines()[start:] if self.path.exists() else []


def go(case: Callable[[Callable[[str], None]], object], log: Log) -> Outcome:
    """Go through one path."""
    start, before, began = len(log), device.counts(), time.process_time()
    said: list[str] = []
    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        try:
            case(said.append)
        except Exception as error:  # whatever it is, the other paths are gone through
            where = traceback.extract_tb(error.__traceback__)[-1]
            sentence = str(error).strip().partition("\n")[0]
            return Outcome(
                BROKEN, why=f"{type(error).__name__}: {sentence} ({Path(where.filename).name}:{where.lineno})"
            )
    lines, done = log.since(start), device.counts().since(before)
    nodes = tuple(int(line.split()[1]) for line in lines if re.fullmatch(r"capture: \d+ nodes", line))
    faults = [line.removeprefix("!! ") for line in lines if line.startswith("!!")]
    why = [sentence for sentence in said if REFUSED in sentence] + faults + [str(w.message) for w in warned]
    captured = done.captures and not done.broken and not why
    return Outcome(
        CAPTURED if captured else STEPWISE, nodes, "; ".join(why) or "nothing was captured", time.process_time() - began
    )


def chosen(names: list[str], known: list[str], default: list[str]) -> list[str]:
    """The paths that names on a command line mean. Raises ValueError, one sentence."""
    for name in names:
        if name not in known:
            raise ValueError(f"there is no path {name!r}{did_you_mean(name, known)}; --list lists them")
    return names or default


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.rehearsal paths", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME")
    parser.add_argument("--list", action="store_true", help="list the paths")
    parser.add_argument("--json", action="store_true", help="one JSON object a line")
    options = parser.parse_args()
    if not device.present():
        print("this needs the stand-in device: python -m bench.rehearsal paths", file=sys.stderr)
        return 2
    with tempfile.TemporaryDirectory() as folder:
        # Before anything is imported that makes the device speak.
        log = Log(Path(os.environ.setdefault("REHEARSAL_LOG", f"{folder}/log.txt")))
        from bench.rehearsal.cases import CASES, FAULTY

        if options.list:
            print("\n".join([*CASES, *FAULTY]))
            return 0
        try:
            names = chosen(options.names, [*CASES, *FAULTY], list(CASES))
        except ValueError as error:
            print(error, file=sys.stderr)
            return 2
        states: list[str] = []
        for name in names:
            outcome = go((CASES | FAULTY)[name], log)
            states.append(outcome.state)
            print(json.dumps({"path": name, **asdict(outcome)}) if options.json else f"{name}: {outcome}", flush=True)
    if not options.json:
        print(f"{states.count(CAPTURED)} of {len(states)} paths are captured")
    return 0 if states.count(CAPTURED) == len(states) else 1


if __name__ == "__main__":
    sys.exit(main())
