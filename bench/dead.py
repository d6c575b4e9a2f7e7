"""Channels that get no gradient at the start: how many of 24 wake up, and by what.

    python -m bench.dead

Takes the first four channels of six rectified layers of the bundled network whose gradient is zero at the start,
renders each in several ways, and counts those whose objective is above 0.1 at the end. Writes the table of
docs/parameterisations.md. About ten minutes on two cores.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch

import fvfast
from bench import record
from bench.report import redraw_all
from bench.tables import table
from fvfast.job import Job
from fvfast.plans import ImagePlan, Keep
from fvfast.recipes import DEFAULT
from fvfast.result import Render
from fvfast.session import Session
from fvfast.step import Step

COMMAND = "python -m bench.dead"
LAYERS = [*(f"_blocks.{block}._swish" for block in (4, 7, 9, 11, 14)), "_swish"]
EACH = 4
STEPS, SIZE = 64, 160
AWAKE = 0.1
BASE = replace(DEFAULT, steps=STEPS, redirect=0)
WAYS = {
    "as it is": BASE,
    "noise of sd 0.2": replace(BASE, sd=0.2),
    "redirected": replace(BASE, redirect=16),
    "redirected, noise of sd 0.2": replace(BASE, redirect=16, sd=0.2),
}


def dead(layer: str, count: int = EACH) -> tuple[list[str], float]:
    """The first channels of a layer whose gradient is zero at the start, and how large a part of them all are."""
    job = Job(fvfast.load(), torch.device("cpu"), torch.float32, SIZE, None)
    objectives = job.objectives(f"{layer}:0-{min(63, job.layers[layer].channels - 1)}")
    plan = [ImagePlan(row, one, replace(BASE, steps=1), 0) for row, one in enumerate(objectives)]
    session = Session(job, plan, 1, 1, Keep(), None, None, lambda _: None)
    found: list[str] = []
    from fvfast.prepare import prepare

    with prepare(job.module, job.layers, [layer], SIZE, torch.float32) as tap:
        for batch in session.batches():
            step = Step(batch, tap)
            step()
            if step.exp_avg_sq.amax() == 0:
                found.append(batch.objectives[0][0].label)
    return found[:count], len(found) / len(objectives)


def awake(result: Render) -> list[bool]:
    """Which images excite their channel in the end. Contrast tells nothing: a bold start has some, and stays dead."""
    return (result.objective > AWAKE).tolist()


def main() -> None:
    targets: list[str] = []
    parts: dict[str, float] = {}
    for layer in LAYERS:
        found, parts[layer] = dead(layer)
        targets += found
        print(f"{layer}: {parts[layer]:.0%} dead, taking {', '.join(found)}", flush=True)
    rows = []
    for name, recipe in WAYS.items():
        result = fvfast.render(target=targets, recipe=recipe, size=SIZE)
        woken = awake(result)
        by_layer = {
            layer: sum(w for t, w in zip(targets, woken, strict=True) if t.rpartition(":")[0] == layer)
            for layer in LAYERS
        }
        objective = result.objective[torch.tensor(woken)].mean().item() if any(woken) else 0.0
        rows.append({"way": name, "awake": sum(woken), "of": len(targets), "objective": objective, "layers": by_layer})
        print(rows[-1], flush=True)
    record.save("dead", COMMAND, rows, targets=targets, dead={layer: round(part, 3) for layer, part in parts.items()})
    redraw_all("dead")


def words(found: dict[str, Any]) -> str:
    """The table in the documentation, from what was measured."""
    header = ["start", *(f"`{layer}`" for layer in found["dead"]), "awake", "mean objective"]
    rows = [["*dead channels*", *(f"{part:.0%}" for part in found["dead"].values()), "", ""]]
    for row in found["rows"]:
        of = [f"{row['layers'][layer]}" for layer in found["dead"]]
        rows.append([row["way"], *of, f"{row['awake']} of {row['of']}", f"{row['objective']:.2f}"])
    return f"{table(header, rows)}\n\nMeasured on {record.line(found['machine'])}."


if __name__ == "__main__":
    main()
