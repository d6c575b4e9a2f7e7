"""Stage `steps`: whole steps in every way, each case in a process of its own.

    python -m bench.gpu.steps --json FILE

A case that runs out of memory, crashes or hangs leaves nothing behind for the next. Cases are those that fit into
80 GB with room to spare, what says most first.
"""

from __future__ import annotations

import os
import signal
import sys
import tempfile
import time
from pathlib import Path
from types import FrameType
from typing import Any

from bench.gpu import processes
from bench.gpu.document import ROOT, exit_of, read_found, state_of
from bench.gpu.findings import DEADLINE, Findings, seconds_left, stage_parser

# Network, layer, batch, pixels, and whether it is torch.compile's turn to be the baseline, which takes long.
CASES = (
    ("googlenet", "inception4a", 1, 224, False),
    ("googlenet", "inception4a", 64, 224, False),
    ("googlenet", "inception4a", 256, 224, False),
    ("resnet50", "layer3", 64, 224, False),
    ("googlenet", "inception4a", 64, 224, True),
    ("googlenet", "inception4a", 16, 512, False),
    ("googlenet", "inception4a", 1, 224, True),
    ("resnet50", "layer3", 1, 224, False),
    ("googlenet", "inception4a", 64, 512, False),
    ("resnet50", "layer3", 16, 512, False),
)
QUICK = (("googlenet", "inception4a", 1, 224, False), ("googlenet", "inception4a", 16, 224, False))
CLOSING_S, LEAST_S = 4.0, 10.0
GRACE_S = 0.5  # less than this stage is given itself, when it is ended
ALONE_S = 180.0  # a case's time where the stage runs by itself


def run_case(case: tuple[str, str, int, int, bool], seconds: float, quick: bool, work: Path) -> dict[str, Any]:
    """One case in its own process, within so many seconds: what it found, however it ended."""
    model, layer, batch, size, compiled = case
    file, log = work / "case.json", work / "log"
    file.unlink(missing_ok=True)
    command = [sys.executable, "-m", "bench.steps", model, layer, str(batch), str(size), "--json", str(file)]
    command += ["--compiled"] * compiled + ["--quick"] * quick
    environment = {**os.environ, DEADLINE: f"{time.time() + seconds:.1f}"}

    def finished() -> bool:
        return bool((read_found(file) or {}).get("finished"))

    ended = processes.run(command, seconds, log, ROOT, environment, finished, GRACE_S)
    print(ended.output.strip(), flush=True)
    found = read_found(file) or {}
    state = state_of(exit_of(ended.code, found), ended.output)
    name = f"{model} {layer}, {size} px, batch {batch}"
    # What ran out of time has found what it had found.
    row = {"case": name, "ms": {}, "failures": {}, "ratios": None, **found}
    for key in ("rows", "finished"):
        row.pop(key, None)
    row |= {"batch": batch, "size": size, "model": model, "state": state, "seconds": round(ended.seconds, 1)}
    if state in ("crashed", "timed out"):
        row |= {"passed": False, "output": ended.output[-3000:]}
    if compiled:
        row["case"] += ", torch.compile"
    return row


def main() -> int:
    options = stage_parser(__doc__).parse_args()
    signal.signal(signal.SIGTERM, _end)  # so that a case does not outlive the stage
    findings = Findings(options.json)
    cases = QUICK if options.quick else CASES
    with tempfile.TemporaryDirectory(prefix="gpu-steps-") as work:
        for number, case in enumerate(cases):
            left = seconds_left() - CLOSING_S
            if left < LEAST_S:
                findings.say(not_begun=[f"{c[0]} {c[1]}, {c[3]} px, batch {c[2]}" for c in cases[number:]])
                break
            # Never so much that a hanging case leaves the next one none.
            share = max(LEAST_S, left / 2) if number + 1 < len(cases) else left
            row = run_case(case, min(share, ALONE_S), options.quick, Path(work))
            findings.add(row)
    return findings.end()


def _end(number: int, frame: FrameType | None) -> None:
    raise SystemExit(128 + number)


if __name__ == "__main__":
    sys.exit(main())
