"""Charts of what `fvfast speed`, `make gpu` and the peers' benchmark measured."""

from __future__ import annotations

from typing import Any

import altair as alt
import pandas as pd

from fvfast_dashboard import results
from fvfast_dashboard.charts import HEIGHT, OCHRE, Chart

OURS = ("fvfast", "kernels")


def ways(frame: pd.DataFrame, title: str) -> Chart:
    """Bars of the median with a rule from p20 to p80: columns way, p20, p50, p80, and what else a tip should say.

    Bars of fvfast have the accent colour.
    """
    order = list(frame["way"])
    frame = frame.assign(ours=["fvfast" if str(way).startswith(OURS) else "others" for way in frame["way"]])
    base = alt.Chart(frame).encode(
        y=alt.Y("way:N", sort=order, title=None, axis=alt.Axis(labelLimit=240, labelOverlap=False))
    )
    tips = [alt.Tooltip("way:N"), *(alt.Tooltip(f"{name}:Q", format=".3~g") for name in ("p20", "p50", "p80"))]
    tips += [alt.Tooltip(f"{name}:N") for name in frame.columns if name not in ("way", "p20", "p50", "p80", "ours")]
    bars = base.mark_bar(height={"band": 0.62}, cornerRadiusEnd=3).encode(
        x=alt.X("p50:Q", title=title, axis=alt.Axis(tickCount=8)),
        color=alt.Color("ours:N", scale=alt.Scale(domain=["fvfast", "x", "y", "others"]), legend=None),
        tooltip=tips,
    )
    rules = base.mark_rule(strokeWidth=2.5, color=OCHRE).encode(x="p20:Q", x2="p80:Q", tooltip=tips)
    return alt.layer(bars, rules).properties(height=44 * len(frame) + 60)


def speed_frame(document: dict[str, Any]) -> pd.DataFrame:
    """What `fvfast speed` measured, for `ways`: milliseconds a step."""
    return pd.DataFrame(
        [{"way": r["way"], "p20": r["p20_ms"], "p50": r["p50_ms"], "p80": r["p80_ms"]} for r in document["rows"]]
    )


def timed(report: dict[str, Any]) -> list[dict[str, Any]]:
    """The rows of a GPU report's kernels that have times: not those that failed."""
    return [row for row in results.rows(report, "kernels") if "p50_ms" in row]


def kernel_frame(report: dict[str, Any], size: int, batch: int) -> pd.DataFrame:
    """The paths of one size and batch from the report's kernels, for `ways`. A wrong result is named as one."""
    rows = [r for r in timed(report) if (r["size"], r["batch"]) == (size, batch)]
    return pd.DataFrame(
        [
            {
                "way": r["path"],
                "p20": r["p20_ms"],
                "p50": r["p50_ms"],
                "p80": r["p80_ms"],
                "result": "right" if r["right"] else "WRONG",
            }
            for r in rows
        ]
    )


def step_frame(step: dict[str, Any]) -> pd.DataFrame:
    """The paths of one whole step from the report, for `ways`."""
    return pd.DataFrame([{"way": way, **times} for way, times in step["ms"].items()])


def ratio_text(step: dict[str, Any], name: str) -> str:
    """How many times as fast a step is as a baseline, or why there is no ratio."""
    ratios, failures = step.get("ratios") or {}, step.get("failures") or {}
    if f"over {name}" in ratios:
        return f"{ratios[f'over {name}']:.2f}×"
    if name in failures:
        return str(failures[name])
    return "gate failed" if step.get("gate", {}).get("passed") is False else "not measured"


def roofline_frame(report: dict[str, Any]) -> pd.DataFrame:
    """The fused kernels' shares of the rate of a large copy: the roof of what moves bytes and hardly computes."""
    copy = results.found(report, "kernels").get("copy_bytes_per_second", 0) / 1e9
    rows = [r for r in timed(report) if r.get("of_copy") is not None]
    return pd.DataFrame(
        [
            {
                "path": r["path"],
                "images": f"{r['size']} px",
                "MB": r["of_copy"] * copy * r["p50_ms"],
                "GB/s": r["of_copy"] * copy,
                "share": r["of_copy"],
                "batch": r["batch"],
                "ms": r["p50_ms"],
            }
            for r in rows
        ]
    )


def peers_frame(document: dict[str, Any], size: int, target: str, batch: int) -> pd.DataFrame:
    """One cell of the peers' benchmark: steps/s of each, from the slowest round to the fastest."""
    rows = [r for r in document["rows"] if (r["size"], r["target"], r["batch"]) == (size, target, batch)]
    ratios = {
        (r["over"], r["under"]): r["median"]
        for r in document.get("ratios", [])
        if (r["size"], r["target"], r["batch"]) == (size, target, batch)
    }
    found = []
    for row in rows:
        if "failed" in row:
            continue
        ratio = ratios.get(("fvfast-default", row["contender"]))
        found.append(
            {
                "way": f"{row['contender']} {row.get('version') or ''}".strip(),
                "p20": min(row["rounds"]),
                "p50": row["steps_per_s"],
                "p80": max(row["rounds"]),
                "fvfast-default is": f"{ratio:.2f}x as fast" if ratio else "",
                "features/s": f"{row['features_per_s']:.3f}",
                "peak MB": f"{row['peak_bytes'] / 1e6:.0f}",
                "final objective": f"{row['objective']:.2f}",
            }
        )
    return pd.DataFrame(sorted(found, key=lambda one: -one["p50"]))


def distances(document: dict[str, Any]) -> Chart:
    """How far the kernels' trajectory is from the reference's, step by step, beside a rounding's."""
    frame = pd.DataFrame(document["rows"])
    names = {"kernels": "kernels", "rounding": "a rounding in the start"}
    frame = frame.assign(way=[names.get(path, path) for path in frame["path"]])
    return (
        alt.Chart(frame)
        .mark_line(point=True)
        .encode(
            x=alt.X("step:Q", title="steps taken", scale=alt.Scale(type="log", base=2)),
            y=alt.Y(
                "canvas:Q",
                title="relative L2 distance of the images",
                scale=alt.Scale(type="log"),
                axis=alt.Axis(format=".0e", tickCount=5),
            ),
            color=alt.Color("way:N", title=None, legend=alt.Legend(orient="top")),
            tooltip=[
                "way:N",
                "step:Q",
                alt.Tooltip("canvas:Q", format=".1e"),
                alt.Tooltip("objective:Q", format=".1e"),
            ],
        )
        .properties(height=HEIGHT)
    )


def distribution(frame: pd.DataFrame, measure: str, title: str) -> Chart:
    """Every render's value of a measure as a tick, with the median of each variant."""
    order = list(dict.fromkeys(frame["variant"]))
    base = alt.Chart(frame).encode(y=alt.Y("variant:N", sort=order, title=None, axis=alt.Axis(labelLimit=200)))
    ticks = base.mark_tick(thickness=1.5, opacity=0.55).encode(
        x=alt.X(f"{measure}:Q", title=title, scale=alt.Scale(zero=False)),
        tooltip=[alt.Tooltip("target:N"), alt.Tooltip("variant:N"), alt.Tooltip(f"{measure}:Q", format=".3f")],
    )
    medians = base.mark_point(filled=True, size=90).encode(
        x=alt.X(f"median({measure}):Q"), tooltip=["variant:N", alt.Tooltip(f"median({measure}):Q", format=".3f")]
    )
    return alt.layer(ticks, medians).properties(height=40 * len(order) + 60)
