"""The figures at the top of README.md, from what was measured; what was not yet says so."""

from __future__ import annotations

from typing import Any

from bench import record

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
    lines.append("- On an NVIDIA GPU: not yet measured; `make gpu` measures it.")
    return "\n".join([*lines, "", f"{stamp}. [docs/performance.md](docs/performance.md) has all of it, with commands."])


def _peers(stored: dict[str, Any], size: int) -> str:
    where = {"size": size, "target": TARGET, "batch": 1}
    rates = {
        row["contender"]: row["steps_per_s"]
        for row in stored["rows"]
        if where.items() <= row.items() and "failed" not in row
    }
    best = max((name for name in PEERS if name in rates), key=lambda name: rates[name])
    parts = []
    for mine, dtype in (("fvfast-default", "float32"), ("fvfast-bfloat16", "bfloat16")):
        if mine not in rates:
            continue
        over = {
            ratio["under"]: ratio["median"]
            for ratio in stored["ratios"]
            if {**where, "over": mine}.items() <= ratio.items()
        }
        parts.append(f"{over['lucent']:.1f}x lucent and {over[best]:.1f}x {best} in {dtype}")
    return f"{size} px: **{'; '.join(parts)}** (steps/s; {best} is the fastest of four peers here)."


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
