"""The peers' tables as Markdown, from what `python -m bench.peers` kept."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from bench import record
from bench.peers.contenders import CONTENDERS
from bench.peers.task import NATIVE
from bench.tables import table
from fvfast.errors import FvfastError

HEADER = ("renderer", "steps/s", "range", "default is", "lucent is", "features/s", "peak MB", "objective")
RECIPES = ("fvfast-default", "fvfast-lucent")
CELL = ("size", "target", "batch")
HAS_BFLOAT16 = "on a processor with bfloat16 (AVX512-BF16 or AMX)"
UNSTEADY = 1.5  # how far apart the rounds of an undisturbed machine stay: 1.4 at most, measured


def markdown(document: dict[str, Any] | None = None) -> str:
    """Every cell's table and what it comes to, the notes, and where all of it was measured.

    document: what `record.load("peers")` gives, which is the default. Raises FvfastError where there is none.
    """
    document = document or record.load("peers")
    if document is None:
        raise FvfastError("the peers were not measured yet: python -m bench.peers.setup, then python -m bench.peers")
    parts = [_cell(rows, document) for rows in _cells(document)]
    return "\n\n".join([*parts, _notes(document), f"Measured on {record.line(document['machine'])}."])


def _cells(document: dict[str, Any]) -> list[list[dict[str, Any]]]:
    """The rows of each cell, a size, a layer and a batch."""
    cells: dict[tuple[Any, ...], list[dict[str, Any]]] = {}
    for row in document["rows"]:
        cells.setdefault(tuple(row[key] for key in CELL), []).append(row)
    return list(cells.values())


def compact(document: dict[str, Any]) -> str:
    """A line a cell: fvfast's steps/s, and how many times as fast as lucent and as the fastest peer that is."""
    lines = []
    for rows in _cells(document):
        size, target, _ = (rows[0][key] for key in CELL)
        best = _best_peer(rows)
        for row in rows:
            if not row["contender"].startswith("fvfast") or "failed" in row or best is None:
                continue
            others = ({**row, "contender": name} for name in ("lucent", best))
            ratios = (_times(_ratio(document, row["contender"], other)) for other in others)
            objective = " / ".join(f"{other['objective']:.1f}" for other in (row, *_named(rows, "lucent")))
            what = f"{size} px, `{target}`, {row['contender']}"
            lines.append([what, f"{row['steps_per_s']:.1f}", *ratios, best, objective])
    settings = document["settings"]
    header = ("what", "steps/s", "against lucent", "against the fastest peer", "which is", "objective / lucent's")
    said = f"`{document['command']}`: {settings['steps']} steps, {settings['rounds']} rounds"
    if settings["device"] == "cpu" and any(row.get("dtype") == "bfloat16" for row in document["rows"]):
        said += f", fvfast-bfloat16 {HAS_BFLOAT16}"
    return f"{table(header, lines)}\n\n{said}; {record.line(document['machine'])}."


def _cell(rows: Sequence[dict[str, Any]], document: dict[str, Any]) -> str:
    size, target, batch = (rows[0][key] for key in CELL)
    images = f", {batch} images a step" if batch > 1 else ""
    lines = [_line(row, document) for row in rows]
    said = [_against_best(recipe, rows, document) for recipe in RECIPES] + _batches(rows, document) + _unsteady(rows)
    summary = " ".join(sentence for sentence in said if sentence)
    return "\n\n".join(part for part in (f"**{size} px, `{target}`{images}**", table(HEADER, lines), summary) if part)


def _line(row: dict[str, Any], document: dict[str, Any]) -> list[str]:
    if "failed" in row:
        return [row["contender"], "failed", *[""] * (len(HEADER) - 2)]
    return [
        f"{row['contender']} {row['version'] or ''}".strip(),
        f"{row['steps_per_s']:.1f}",
        f"{min(row['rounds']):.1f}-{max(row['rounds']):.1f}",
        *(_times(_ratio(document, recipe, row)) for recipe in RECIPES),
        f"{row['features_per_s']:.3f}",
        f"{row['peak_bytes'] / 1e6:.0f}",
        f"{row['objective']:.2f}",
    ]


def _ratio(document: dict[str, Any], over: str, row: dict[str, Any]) -> dict[str, Any] | None:
    """How many times as fast as a row's contender one of fvfast's recipes is in the row's cell."""
    wanted = {**{key: row[key] for key in CELL}, "over": over, "under": row["contender"]}
    return next((ratio for ratio in document["ratios"] if wanted.items() <= ratio.items()), None)


def _times(ratio: dict[str, Any] | None) -> str:
    return f"{ratio['median']:.2f}x ({ratio['min']:.2f}-{ratio['max']:.2f})" if ratio else ""


def _against_best(recipe: str, rows: Sequence[dict[str, Any]], document: dict[str, Any]) -> str:
    """A sentence on the fastest of the installed peers; nothing where there is none."""
    best = _best_peer(rows)
    if best is None:
        return ""
    ratio = _ratio(document, recipe, {**rows[0], "contender": best})
    return f"{recipe} is {_times(ratio)} as fast as the fastest peer, {best}." if ratio else ""


def _named(rows: Sequence[dict[str, Any]], name: str) -> list[dict[str, Any]]:
    return [row for row in rows if row["contender"] == name and "failed" not in row]


def _best_peer(rows: Sequence[dict[str, Any]]) -> str | None:
    """The fastest of the installed peers."""
    peers = [row for row in rows if CONTENDERS[row["contender"]].requirements and "failed" not in row]
    return max(peers, key=lambda row: row["steps_per_s"])["contender"] if peers else None


def _batches(rows: Sequence[dict[str, Any]], document: dict[str, Any]) -> list[str]:
    """Sentences on what sharing steps gains: features/s over those of the same contender alone."""
    found: list[str] = []
    for row in rows:
        alone = [
            other
            for other in document["rows"]
            if other["batch"] == 1 < row["batch"]
            and all(other[key] == row[key] for key in ("contender", "size", "target"))
            and "failed" not in other
        ]
        if alone and "failed" not in row:
            gain = row["features_per_s"] / alone[0]["features_per_s"]
            found.append(f"{row['contender']} renders {gain:.2f}x as many features a second as with one image a step.")
    return found


def _unsteady(rows: Sequence[dict[str, Any]]) -> list[str]:
    """A sentence that warns of figures taken while something else used the machine."""
    names = [
        row["contender"] for row in rows if "failed" not in row and max(row["rounds"]) > UNSTEADY * min(row["rounds"])
    ]
    return (
        [f"The machine was not quiet: the rounds of {', '.join(names)} lie far apart; measure again."] if names else []
    )


def _notes(document: dict[str, Any]) -> str:
    settings = document["settings"]
    threads = "1 thread" if settings["threads"] == 1 else f"{settings['threads']} threads"
    where = "one GPU" if settings["device"] == "cuda" else threads
    lines = [
        f"EfficientNet-Lite0, {where}, {settings['steps']} steps, medians of {settings['rounds']} interleaved rounds. "
        "*default is*, *lucent is*: how many times as fast fvfast's recipes are, the median of the ratios within each "
        "round (and their range). *features/s*: of 128 steps each. *objective*: of the finished canvas, without views, "
        f"by the unmodified network at {NATIVE} px, after these steps."
        + " Smaller canvases are enlarged for it, whatever size their renderer saw them at."
        * any(row["size"] < NATIVE for row in document["rows"]),
        "",
    ]
    for row in {row["contender"]: row for row in document["rows"]}.values():
        lines.append(f"- {row['contender']}: {'; '.join([row['note'], *_particulars(row, settings['device'])])}.")
    return "\n".join(lines)


def _particulars(row: dict[str, Any], device: str) -> list[str]:
    if "failed" in row:
        return [row["failed"].rstrip(".")]
    found = [f"{' and '.join(row['shims'])} replaced by an empty module"] if row["shims"] else []
    if row["dtype"] == "float32":
        return found
    return [*found, f"in {row['dtype']}" + f", {HAS_BFLOAT16}" * (device == "cpu" and row["dtype"] == "bfloat16")]
