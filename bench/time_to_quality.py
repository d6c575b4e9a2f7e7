"""How long until a render is as good as lucent's: seconds to the final objective of lucent's 512 steps.

    python -m bench.peers.setup --only lucent    once
    python -m bench.time_to_quality              32 features; over an hour on one processor
    python -m bench.time_to_quality --show       the table of what was measured so far

For each feature lucent takes its 512 steps at 224 px, and fvfast's ways follow at once on the same processor, with a
snapshot every few steps. One judge looks at all of them (the unmodified network, float32, the canvas as it is). A way's
time is that of its loop up to the first snapshot that is as good, between snapshots by a straight line, and of
preparing the network; lucent's is 512 steps at its own rate, without any preparation. A way that never gets there has
no time, and counts as slower than any. Every feature is kept as it is done: the same command goes on.
"""

from __future__ import annotations

import argparse
import dataclasses
import math
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

import fvfast
from bench import record
from bench.peers import contenders
from bench.peers.driver import Settings, Worker
from bench.peers.judge import Judge
from bench.peers.task import Task
from bench.tables import table
from fvfast import trials
from fvfast.recipes import RECIPES, Recipe, choose
from fvfast.targets import parse
from fvfast.views import Views

KIND, COMMAND = "time-to-quality", "python -m bench.time_to_quality"
SIZE, LUCENT_STEPS, EVERY = 224, 512, 8
LONGER = 3  # a way may take so many times its recipe's steps to get there
# The default recipe, and the recipe of its channels for every feature, with views that are nearer to the canvas.
WAYS: dict[str, Recipe | None] = {
    "default": None,
    "mild views": dataclasses.replace(
        RECIPES["default"], views=Views(jitter=8, zoom=(0.95, 1.05), stretch=1.05, shear=5)
    ),
}


def lucent(worker: Worker, judge: Judge, target: str, folder: Path) -> dict[str, float]:
    """What lucent comes to, and how long it takes."""
    layer, channel = judge.feature(target)
    canvas = folder / "canvas.npy"
    answer = worker.ask(Task(layer, (channel,), SIZE, LUCENT_STEPS, 0, "cpu", 1, str(canvas)))
    (objective,) = judge(torch.from_numpy(np.load(canvas)), layer, (channel,))
    return {"objective": objective, "seconds": LUCENT_STEPS / answer["steps_per_s"]}


def ours(judge: Judge, target: str, way: Recipe | None) -> dict[str, Any]:
    """A way's course: seconds of preparation and of the loop, and the objective after every few steps."""
    layer, channel = judge.feature(target)
    (objective,) = parse(target, judge.layers, judge.model)
    recipe = way or choose("default", objective)
    steps = recipe.steps * LONGER
    result = fvfast.render(
        target=target, recipe=dataclasses.replace(recipe, steps=steps), size=SIZE, threads=1, every=EVERY
    )
    course = [(step, judge(image[None], layer, (channel,))[0]) for step, image in result.snapshots[0]]
    return {"prepare": result.stages["prepare"], "loop": result.stages["loop"], "steps": steps, "course": course}


def seconds_to(goal: float, run: dict[str, Any]) -> float | None:
    """When a way's course first reaches the goal, from the start of its preparation; None if it never does."""
    before = (0, -math.inf)
    for step, value in run["course"]:
        if value >= goal:
            part = 1.0 if math.isinf(before[1]) else (goal - before[1]) / (value - before[1])
            return run["prepare"] + run["loop"] * (before[0] + part * (step - before[0])) / run["steps"]
        before = (step, value)
    return None


def measure(targets: Sequence[str], done: Sequence[dict[str, Any]], ways: Sequence[str]) -> None:
    """Whatever is missing, feature by feature: lucent first, then each of the ways. Kept one by one."""
    rows = {row["target"]: row for row in done}
    settings = Settings(LUCENT_STEPS, 1, 1, "cpu", math.inf)
    judge = Judge()
    missing = [t for t in targets if t not in rows or not set(ways) <= set(rows[t]["ways"])]
    began = time.perf_counter()
    with (
        tempfile.TemporaryDirectory() as name,
        Worker(contenders.choose(["lucent"])[0], settings, Path(name)) as worker,
    ):
        for number, target in enumerate(missing, 1):
            if target not in rows:
                rows[target] = {"target": target, "lucent": lucent(worker, judge, target, Path(name)), "ways": {}}
            for way in ways:
                if way not in rows[target]["ways"]:
                    rows[target]["ways"][way] = ours(judge, target, WAYS[way])
            record.save(KIND, COMMAND, list(rows.values()), size=SIZE)
            each = (time.perf_counter() - began) / number
            print(
                f"{number}/{len(missing)} {target}: {each / 60:.1f} min each, "
                f"{each * (len(missing) - number) / 60:.0f} min left",
                file=sys.stderr,
                flush=True,
            )


def summary(rows: Sequence[dict[str, Any]], way: str) -> dict[str, float]:
    """The median ratio of lucent's time to a way's, its quartiles, and how many features got there."""
    rows = [row for row in rows if way in row["ways"]]
    found = [(row["lucent"]["seconds"], seconds_to(row["lucent"]["objective"], row["ways"][way])) for row in rows]
    ratios = sorted(0.0 if mine is None else theirs / mine for theirs, mine in found)
    times = [math.inf if mine is None else mine for _, mine in found]
    low, middle, high = statistics.quantiles(ratios, n=4, method="inclusive")
    return {
        "low": low,
        "median": middle,
        "high": high,
        "reached": sum(r > 0 for r in ratios),
        "seconds": statistics.median(times),
        "lucent": statistics.median(theirs for theirs, _ in found),
    }


def markdown(document: dict[str, Any]) -> str:
    rows = document["rows"]
    lines = []
    for way in WAYS:
        s = summary(rows, way)
        spread = f"{s['low']:.1f}-{s['high']:.1f}"
        lines.append([way, f"{s['reached']} of {len(rows)}", f"{s['seconds']:.1f}", f"{s['median']:.1f}x", spread])
    header = ["way", "got there", "median seconds", "median ratio", "quartiles"]
    theirs = statistics.median(row["lucent"]["seconds"] for row in rows)
    said = f"Seconds to the final objective of lucent's 512 steps ({theirs:.0f} s, median), {len(rows)} features, "
    where = f"{document['size']} px, one thread. `{document['command']}`; {record.line(document['machine'])}."
    return table(header, lines) + "\n\n" + said + where


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--features", type=int, default=32, help="how many")
    parser.add_argument("--processor", type=int, default=None, help="which to use (default: the first)")
    parser.add_argument("--ways", nargs="*", choices=WAYS, help="only these (none: lucent alone)")
    parser.add_argument("--show", action="store_true", help="measure nothing")
    options = parser.parse_args()
    stored = record.load(KIND)
    rows = stored["rows"] if stored else []
    if not options.show:
        if hasattr(os, "sched_setaffinity"):
            processors = sorted(os.sched_getaffinity(0))
            os.sched_setaffinity(0, {processors[0] if options.processor is None else options.processor})
        torch.set_num_threads(1)
        measure(trials.features(options.features), rows, list(WAYS) if options.ways is None else options.ways)
        stored = record.load(KIND)
    if not stored:
        sys.exit(f"bench.time_to_quality: nothing was measured yet: {COMMAND}")
    print(markdown(stored))


if __name__ == "__main__":
    main()
