"""The few figures that say most, each from a file of results, with where it was measured or how to measure it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from fvfast_dashboard import results

RENDERERS = ("lucent", "torch-dreams", "horama", "dreamlens")  # peers that others install


@dataclass(frozen=True)
class Headline:
    """label; value: None where it was not measured; detail: of what; where: the stamp; command: what measures it."""

    label: str
    value: str | None
    detail: str
    where: str
    command: str


def headlines() -> list[Headline]:
    """All of them, measured or not; a broken file of results counts as none."""
    return [_speed(), _peers(), _kernels(), _trajectory()]


def _read(load: Callable[[], Any], of: Callable[[Any], tuple[str, str, Any] | None]) -> tuple[str | None, str, str]:
    """Value, detail and stamp from a document; nothing where it is missing or not as it should be."""
    try:
        document = load()
        found = of(document) if document else None
    except (results.Unreadable, KeyError, TypeError, ValueError, IndexError, AttributeError):
        found = None
    if found is None:
        return None, "", ""
    value, detail, machine = found
    where = machine if isinstance(machine, str) else f"{machine['device']}, {machine['date']}"
    return value, detail, where.replace("-", "\u2011")  # a date stays in one line


def _speed() -> Headline:
    def of(found: tuple[dict[str, Any] | None, bool]) -> tuple[str, str, Any] | None:
        document, own = found
        if not document or not document["ratios"]:
            return None
        machine = document["machine"]
        where = f"{'this machine: ' if own else ''}{machine['device']}, {machine['date']}"
        of_what = f"{document['model']} {document['layer']}, {document['size']} px"
        return f"{max(document['ratios'].values()):.2f}×", of_what, where

    value, detail, where = _read(results.speed, of)
    return Headline("Faster than a lucent-style loop, on a CPU", value, detail, where, results.COMMANDS[results.SPEED])


def _peers() -> Headline:
    def of(document: dict[str, Any]) -> tuple[str, str, Any] | None:
        cells: dict[tuple[Any, ...], list[dict[str, Any]]] = {}
        for row in document["ratios"]:
            if row["over"] == "fvfast-default" and row["under"].startswith(RENDERERS):
                cells.setdefault((row["target"], row["size"], row["batch"]), []).append(row)
        # Against the fastest of the others, in the task where that leaves least.
        cell, least = min(
            ((cell, min(rows, key=lambda row: row["median"])) for cell, rows in cells.items()),
            key=lambda item: item[1]["median"],
        )
        return f"{least['median']:.2f}×", f"{least['under']}; {cell[0]}, {cell[1]} px", document["machine"]

    value, detail, where = _read(lambda: results.load(results.PEERS), of)
    label = "Faster than the fastest other renderer"
    return Headline(label, value, detail, where, results.COMMANDS[results.PEERS])


def _kernels() -> Headline:
    def of(reports: dict[str, dict[str, Any]]) -> tuple[str, str, Any] | None:
        report = next(iter(reports.values()))
        steps = [step for step in results.rows(report, "steps") if "over graphed" in (step.get("ratios") or {})]
        if not steps:
            return None
        best = max(steps, key=lambda step: step["ratios"]["over graphed"])
        return f"{best['ratios']['over graphed']:.2f}×", f"a whole step: {best['case']}", report["machine"]

    value, detail, where = _read(results.gpu_reports, of)
    return Headline("Fused kernels over graphed PyTorch, on a GPU", value, detail, where, results.COMMANDS["gpu"])


def _trajectory() -> Headline:
    def of(document: dict[str, Any]) -> tuple[str, str, Any] | None:
        ends = document["final objective"]
        change = ends["kernels"] / ends["reference"] - 1
        where = {"interpreted": "kernels in Triton's interpreter", "compiled": "on a GPU"}.get(document["kernels"], "")
        steps = max(row["step"] for row in document["rows"])
        return f"{change:+.2%}", f"after {steps} steps, {where}", document["machine"]

    value, detail, where = _read(lambda: results.load(results.TRAJECTORIES), of)
    label = "Final objective, kernels against reference"
    return Headline(label, value, detail, where, results.COMMANDS[results.TRAJECTORIES])
