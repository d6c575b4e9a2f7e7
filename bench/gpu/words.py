"""The report for people: Markdown from its document, whatever of it is there."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from bench.gpu.document import STATES, found, rows
from bench.tables import table

BROKEN = (
    KeyError,
    TypeError,
    ValueError,
    IndexError,
    AttributeError,
    ImportError,
)  # what a document of another shape ends in
RATIOS = ("lucent-style", "reference", "graphed", "compiled")
TAIL_LINES = 25


def markdown(report: dict[str, Any]) -> str:
    """All of it: how each stage ended, and a section for each that found something."""
    machine = report["machine"]
    parts = [f"# {machine.get('device', 'unknown GPU')}: the GPU report", _head(report), stages_table(report)]
    for name, (title, words) in SECTIONS.items():
        if name not in report["stages"]:
            continue
        parts.append(f"## {title}")
        parts.append(_section(report, name, words))
    return "\n\n".join(part for part in parts if part) + "\n"


def _head(report: dict[str, Any]) -> str:
    machine = report["machine"]
    stamp = [machine.get("line", machine.get("device", "unknown GPU"))]
    card = machine.get("card") or {}
    stamp += [f"{name} {machine[name]}" for name in ("triton", "cuda", "cudnn") if machine.get(name)]
    stamp += [f"{name} {value}" for name, value in card.items()]
    lines = [
        f"`{report['command']}`: {report['ended']}, {report['seconds']:.0f} s of {report['budget_s']:.0f}.",
        ", ".join(map(str, stamp)) + ".",
        f"Weights: {report['weights']}." if report.get("weights") else "",
        "A quick run: few and small cases." if report.get("quick") else "",
        machine.get("problem", ""),
    ]
    return "\n\n".join(line for line in lines if line)


def stages_table(report: dict[str, Any]) -> str:
    """How every stage ended, and what time it took of what it had."""
    lines = []
    for name, stage in report["stages"].items():
        took = f"{stage['seconds']:.0f}" if "seconds" in stage else ""
        box = f"{stage['box_s']:.0f}" if "box_s" in stage else ""
        cases = rows(report, name)
        passed = sum(bool(row.get("passed", True)) for row in cases)
        compiled = str(stage.get("kernels_compiled", ""))
        lines.append([name, STATES[stage["state"]], took, box, f"{passed} of {len(cases)}" if cases else "", compiled])
    return table(("stage", "ended", "s", "at most", "cases passed", "kernels compiled"), lines)


def _section(report: dict[str, Any], name: str, words: Callable[[dict[str, Any]], str]) -> str:
    stage = report["stages"][name]
    parts = []
    if stage["state"] != "passed":
        parts.append(f"**{STATES[stage['state']]}.**")
    if found(report, name):
        try:
            parts.append(words(report))
        except BROKEN as error:
            parts.append(f"What it found is not of the form that is expected here ({type(error).__name__}: {error}).")
    if stage.get("output") and stage["state"] in ("crashed", "timed out", "failed"):
        tail = "\n".join(stage["output"].strip().splitlines()[-TAIL_LINES:])
        parts.append(f"The end of its output:\n\n```text\n{tail}\n```")
    return "\n\n".join(part for part in parts if part) or "Nothing was found."


# One function a stage --------------------------------------------------------------------------------------


def _compile(report: dict[str, Any]) -> str:
    what = found(report, "compile")
    text = (
        f"{what['kernels']} kernels for sm_{what['arch']}: {what['found']} found in the cache, {what['compiled']} "
        f"compiled ({what['compiling_s']:.0f} s of processors), {len(what['failures'])} failed."
    )
    slow = "; ".join(what["slowest"][:3])
    failed = "\n".join(f"- {failure}" for failure in what["failures"])
    baselines = what.get("torch_compile")
    more = f" torch.compile's baselines: {', '.join(baselines)}." if baselines else ""
    return "\n\n".join(part for part in (text + more, slow and f"Slowest: {slow}.", failed) if part)


def _lines(name: str) -> Callable[[dict[str, Any]], str]:
    """A list with a line for each case: what it said, or why it failed."""

    def words(report: dict[str, Any]) -> str:
        return "\n".join(f"- {_case(row)}" for row in rows(report, name))

    return words


def _case(row: Mapping[str, Any]) -> str:
    said = row.get("failed") or row.get("words") or ("passed" if row.get("passed", True) else "FAILED")
    return f"{row.get('case', '?')}: {'FAILED: ' if row.get('failed') else ''}{said}"


def _tests(report: dict[str, Any]) -> str:
    cases = rows(report, "tests")
    counts = {word: sum(row["outcome"] == word for row in cases) for word in ("passed", "failed", "skipped")}
    counts["not collected"] = sum(row["outcome"] == "not collected" for row in cases)
    text = ", ".join(f"{count} {word}" for word, count in counts.items() if count) + "."
    failed = [row for row in cases if not row["passed"]]
    ends = [f"- `{row['case']}`: {_last(row.get('traceback', ''))}" for row in failed]
    return "\n\n".join([text, "\n".join(ends)])


def _last(text: str) -> str:
    """The line of a traceback that says most: pytest's first line of error, else the last."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return next((line for line in lines if line.startswith("E ")), lines[-1] if lines else "")[:300]


def _kernels(report: dict[str, Any]) -> str:
    what = found(report, "kernels")
    parts = [f"A large copy moves {what['copy_bytes_per_second'] / 1e9:.0f} GB/s."]
    gates = what.get("gates", [])
    if gates:
        parts.append("Errors against float64: " + "; ".join(_case(row) for row in gates) + ".")
    parts += [ways_table(what["rows"]), tiles_table(what.get("tiles", []))]
    return "\n\n".join(part for part in parts if part)


def ways_table(results: Sequence[Mapping[str, Any]]) -> str:
    """Everything of a step outside the network, in every way that was measured, from `bench.kernels`' rows."""
    lines = []
    for row in results:
        if "p50_ms" not in row:
            lines.append([_case(row), *[""] * 10])
            continue
        others = {r["path"]: r for r in results if (r.get("size"), r.get("batch")) == (row["size"], row["batch"])
                  and "p50_ms" in r}  # fmt: skip
        share = "" if row["of_copy"] is None else f"{row['of_copy']:.0%}"
        times = [f"{row[key]:.3f}" for key in ("p20_ms", "p50_ms", "p80_ms")]
        ratios = [kernel_ratio(row, others.get(name)) for name in ("eager", "compiled", "graphed")]
        where = [row["path"], str(row["size"]), str(row["batch"])]
        lines.append([*where, *times, f"{row['error']:.1e}", share, *ratios])
    heads = ("way", "px", "batch", "p20 ms", "p50 ms", "p80 ms", "error", "of copy", "by eager", "by compiled",
             "by graphed")  # fmt: skip
    return table(heads, lines) if lines else ""


def kernel_ratio(row: Mapping[str, Any], base: Mapping[str, Any] | None) -> str:
    """How many times as fast as another way; withheld where either is wrong."""
    if base is None:
        return "not measured"
    if not (row["right"] and base["right"]):
        return "wrong result"
    return f"{base['p50_ms'] / row['p50_ms']:.2f}x"


def tiles_table(tiles: Sequence[Mapping[str, Any]]) -> str:
    """Each kernel with each tile: the launch table's, and beside it the others."""
    lines = []
    for row in sorted(tiles, key=lambda row: [str(row.get(key, "")) for key in ("size", "batch", "precision")]):
        if "p50_ms" not in row:
            lines.append([_case(row), *[""] * 7])
            continue
        tile = " ".join(f"{key} {value}" for key, value in row["tile"].items())
        kernel = f"{row['kernel']} {row['precision']}{'' if row['table'] else ', instead'}"
        error = f"{row['errors']['gradient']:.1e}{'' if row['passed'] else ' WRONG'}"
        where = [str(row["size"]), str(row["batch"])]
        moved = ["", ""] if row["bytes"] is None else [f"{row['bytes'] / 1e6:.1f}", f"{row['of_copy']:.0%}"]
        each = f"{row['p50_ms'] * 1e3 / row['batch']:.2f}"
        lines.append([kernel, tile or "one", *where, each, *moved, error])
    return table(("kernel", "tile", "px", "batch", "us an image", "MB", "of copy", "error"), lines) if lines else ""


def _steps(report: dict[str, Any]) -> str:
    return steps_table(rows(report, "steps"))


def steps_table(steps: Sequence[Mapping[str, Any]]) -> str:
    """Whole steps: fvfast's time, how many times as fast as each baseline, and what is the network's."""
    lines = []
    for row in steps:
        ms = row["ms"].get("fvfast")
        time = "/".join(f"{ms[key]:.2f}" for key in ("p20", "p50", "p80")) if ms else row["failures"].get("fvfast", "")
        share, memory = row.get("share outside the network"), row.get("peak memory over the network's own")
        lines.append([
            row["case"],
            time or row.get("state", "not measured"),
            *(step_ratio(row, name) for name in RATIOS),
            "" if share is None else f"{share:.0%}",
            f"{memory:.2f}" if memory else "",
        ])  # fmt: skip
    return table(("step", "ms p20/p50/p80", *(f"by {name}" for name in RATIOS), "outside", "memory"), lines)


def step_ratio(row: Mapping[str, Any], name: str) -> str:
    """How many times as fast as a baseline, or why that is not known."""
    ratios, failures = row.get("ratios") or {}, row.get("failures") or {}
    if f"over {name}" in ratios:
        return f"{ratios[f'over {name}']:.2f}x"
    if name in failures:
        return f"{name}: {failures[name]}"
    if "gate" in failures:
        return "no gate"
    return "gate failed" if row.get("gate", {}).get("passed") is False else "not measured"


def _network(report: dict[str, Any]) -> str:
    return importlib.import_module("bench.network").markdown(found(report, "network"))


def _atlas(report: dict[str, Any]) -> str:
    lines = []
    for row in rows(report, "atlas"):
        if "channels a minute" not in row:
            lines.append([_case(row), *[""] * 5])
            continue
        stages = ", ".join(f"{name} {seconds:.1f}" for name, seconds in row["stages"].items())
        captures = f"{row['captures']} for {row['batches']}"
        whole = f"{row['seconds for all, extrapolated']:.0f}"
        rate = f"{row['channels a minute']:.0f}"
        lines.append([f"{row['batch']}", f"{row['channels']} x {row['steps']}", rate, whole, captures, stages])
    heads = ("batch", "channels x steps", "channels a minute", "s for all 5,488", "captures for batches", "seconds")
    return table(heads, lines)


def _quality(report: dict[str, Any]) -> str:
    what = found(report, "quality")
    lines = [f"Final objectives against the reference in float32: {what['model']}, {what['steps']} steps."]
    for row in what["rows"]:
        if "median change" not in row:
            lines.append(f"- {_case(row)}")
            continue
        lines.append(
            f"- {row['case']}: median change {row['median change']:+.2%} over {row['channels']} channels (median of "
            f"its size {row['median of its size']:.2%}, largest {row['largest']:+.2%})."
        )
    return "\n".join(lines)


def _trajectories(report: dict[str, Any]) -> str:
    return trajectories_table(found(report, "trajectories"))


def trajectories_table(what: Mapping[str, Any]) -> str:
    """The table of `bench.trajectories.measure`, and what the final objectives are."""
    case, steps, ends = what["case"], what["rows"], what["final objective"]
    measures, paths = ("spectrum", "canvas", "objective"), ("kernels", "rounding")
    header = ["step", *(f"{path}: {name}" for path in paths for name in measures)]
    lines = []
    for mark in dict.fromkeys(row["step"] for row in steps):
        at = {row["path"]: row for row in steps if row["step"] == mark}
        lines.append([f"{mark}", *(f"{at[p][k]:.1e}" if p in at else "" for p in paths for k in measures)])
    last = max(row["step"] for row in steps)
    objectives = ", ".join(f"{ends[name]:.4f} ({name})" for name in ends)
    return (
        f"{table(header, lines)}\n\n*kernels*: the kernels against the reference path; *rounding*: the reference path, "
        "begun an ulp beside its start, against itself. Relative L2 distances of spectra and canvases, relative "
        f"differences of the objective. Medians over {case['batch']} images of {case['size']} px, channels of "
        f"`{case['layer']}` of {case['model']}. Mean objective after {last} steps: {objectives}."
    )


SECTIONS: dict[str, tuple[str, Callable[[dict[str, Any]], str]]] = {
    "compile": ("Compilation", _compile),
    "smoke": ("Every path of a render", _lines("smoke")),
    "tests": ("Tests", _tests),
    "sanitizer": ("compute-sanitizer", _lines("sanitizer")),
    "kernels": ("Kernels", _kernels),
    "steps": ("Whole steps", _steps),
    "network": ("The network's share", _network),
    "atlas": ("A whole network", _atlas),
    "quality": ("Half precision in the end", _quality),
    "trajectories": ("The kernels' way and the reference path's", _trajectories),
}


def shown(report: dict[str, Any]) -> str:
    """What docs/gpu.md shows of a report: how its stages ended, whole steps, channels a minute, and where."""
    parts = [stages_table(report)]
    for name in ("steps", "atlas"):
        if name in report["stages"]:
            parts.append(_section(report, name, SECTIONS[name][1]))
    machine = report["machine"]
    return "\n\n".join([*parts, f"`{report['command']}`; {machine.get('line', machine.get('device'))}."])
