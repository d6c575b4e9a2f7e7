"""The figures at the top of README.md, from what was measured; what was not yet says so."""

from __future__ import annotations

from typing import Any

from bench import record
from bench.gpu import document
from bench.gpu.words import BROKEN, step_ratio
from bench.peers.table import HAS_BFLOAT16

# What the sentences speak of: the bundled network's middle, one image, one thread.
TARGET, PEERS = "_blocks.10:3", ("lucent", "torch-dreams", "dreamlens", "horama")


def words(stored: dict[str, Any]) -> str:
    """Sentences from peers.json, and from time-to-quality.json where it is there."""
    lines = [f"- {_peers(stored, size)}" for size in (224, 128)]
    quality = record.load("time-to-quality")
    if quality is not None:
        lines.append(f"- {_quality(quality)}")
    pictures = record.load("quality")
    if pictures is not None:
        lines.append(f"- {_pictures(pictures)}")
    stamp = f"EfficientNet-Lite0, `{TARGET}`, one thread of {record.line(stored['machine'])}"
    lines.append(f"- {gpu(document.newest())}")
    return "\n".join([*lines, "", f"{stamp}. [docs/performance.md](docs/performance.md) has all of it, with commands."])


def gpu(report: dict[str, Any] | None) -> str:
    """A sentence from the newest report of `make gpu`; what is not in it says so."""
    if report is None:
        return "On an NVIDIA GPU: not yet measured; `make gpu` measures it."
    machine = report["machine"]
    try:
        parts = [_gpu_step(report, 1, "lucent-style"), _gpu_step(report, 64, "graphed"), _gpu_channels(report)]
    except BROKEN as error:
        return f"On an NVIDIA GPU: the report is not as it should be ({type(error).__name__}): run `make gpu` again."
    where = f"{machine['device']}, {machine['date']}, commit {machine.get('commit', '?')}"
    return f"On an NVIDIA GPU, GoogLeNet at 224 px: {'; '.join(parts)} ({where})."


def _gpu_step(report: dict[str, Any], batch: int, baseline: str) -> str:
    wanted = {"model": "googlenet", "size": 224, "batch": batch}
    row = next((row for row in document.rows(report, "steps") if wanted.items() <= row.items()), None)
    if row is None or "fvfast" not in row["ms"]:
        return f"a step of batch {batch} not measured"
    what = {"lucent-style": "a lucent-style loop", "graphed": "the same in PyTorch, in a CUDA graph"}[baseline]
    ratio = step_ratio(row, baseline)
    times = f"**{ratio} as fast as {what}**" if ratio.endswith("x") else f"against {what}: {ratio}"
    return f"a step of batch {batch} takes {row['ms']['fvfast']['p50']:.2f} ms, {times}"


def _gpu_channels(report: dict[str, Any]) -> str:
    measured = [row for row in document.rows(report, "atlas") if "channels a minute" in row]
    if not measured:
        return "channels a minute not measured"
    best = max(measured, key=lambda row: row["channels a minute"])
    return f"{best['channels a minute']:.0f} channels a minute at batch {best['batch']}"


def _peers(stored: dict[str, Any], size: int) -> str:
    where = {"size": size, "target": TARGET, "batch": 1}
    rows = {r["contender"]: r for r in stored["rows"] if where.items() <= r.items() and "failed" not in r}
    best = max((name for name in PEERS if name in rows), key=lambda name: rows[name]["steps_per_s"])
    said = {}
    for mine in ("fvfast-default", "fvfast-bfloat16"):
        over = {
            ratio["under"]: ratio["median"]
            for ratio in stored["ratios"]
            if {**where, "over": mine}.items() <= ratio.items()
        }
        if mine in rows:
            said[mine] = f"{over['lucent']:.1f}x lucent and {over[best]:.1f}x {best}"
    default, half = rows["fvfast-default"]["dtype"], rows.get("fvfast-bfloat16")
    # Where the processor has no bfloat16, what was asked for it ran in float32: that is no figure of its own.
    more = f"; {said['fvfast-bfloat16']} in bfloat16, {HAS_BFLOAT16}" if half and half["dtype"] == "bfloat16" else ""
    return (
        f"{size} px, {default}: **{said['fvfast-default']}** (steps/s; {best} is the fastest of four peers here{more})."
    )


def _quality(stored: dict[str, Any]) -> str:
    from bench.time_to_quality import summary

    mild, default = summary(stored["rows"], "mild views"), summary(stored["rows"], "default")
    return (
        f"What lucent's 512 steps reach ({mild['lucent']:.0f} s) takes {mild['seconds']:.0f} s, **{mild['median']:.0f} "
        f"times less**, with views near the canvas (median of {len(stored['rows'])} features, {mild['reached']} get "
        f"there); {default['median']:.0f} times less by the default recipe ({default['reached']} get there)."
    )


def _pictures(stored: dict[str, Any]) -> str:
    means = {name: found["transfer"]["mean"] for name, found in stored["summary"].items()}
    count = stored["summary"]["default"]["transfer"]["count"]
    others = ", ".join(f"{means[name]:.2f} for those of {name}" for name in ("lucent", "torch-dreams"))
    return (
        f"A second network recognises what is shown: mean probability of the class **{means['default']:.2f}** for the "
        f"default recipe's pictures, {others}, {means['plain']:.2f} for plain pixels ({count} classes, "
        f"{stored['size']} px; [docs/quality.md](docs/quality.md))."
    )
