"""Pictures of what was measured, for README, docs and dashboard: SVGs in docs/images, drawn by Altair."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import altair as alt

from bench import record
from bench.report import DOCS

OURS, THEIRS = "#0d6b68", "#a8a29e"  # the dashboard's accent
WIDTH = 460


def draw_all() -> Iterator[Path]:
    """Draw what there are measurements of; gives the files."""
    peers, quality = record.load("peers"), record.load("time-to-quality")
    if peers is not None:
        yield _save(rates(peers), "peers")
    if quality is not None:
        yield _save(courses(quality), "time-to-quality")


def rates(stored: dict[str, Any]) -> Any:
    """Steps a second of every contender, a panel a size: medians, with the range of the rounds."""
    rows = [
        {
            "contender": row["contender"],
            "size": f"{row['size']} px",
            "steps/s": row["steps_per_s"],
            "low": min(row["rounds"]),
            "high": max(row["rounds"]),
            "kind": "fvfast" if row["contender"].startswith("fvfast") else "other",
        }
        for row in stored["rows"]
        if row["batch"] == 1 and row["target"] == "_blocks.10:3" and "failed" not in row
    ]
    base = alt.Chart(alt.Data(values=rows)).encode(  # pyright: ignore[reportAttributeAccessIssue]
        y=alt.Y("contender:N", sort=alt.EncodingSortField("steps/s", order="descending"), title=None)
    )
    colour = alt.Color("kind:N", scale=alt.Scale(domain=["fvfast", "other"], range=[OURS, THEIRS]), legend=None)
    bars = base.mark_bar(cornerRadiusEnd=2).encode(
        x=alt.X("steps/s:Q", title="steps a second, one thread"), color=colour
    )
    ranges = base.mark_rule(color="#44403c").encode(x="low:Q", x2="high:Q")
    return (
        alt.layer(bars, ranges)
        .properties(width=WIDTH, height=alt.Step(20))
        .facet(row=alt.Row("size:N", title=None, sort="descending", header=alt.Header(labelAngle=0, labelAlign="left")))
        .resolve_scale(y="independent", x="independent")
    )


def courses(stored: dict[str, Any]) -> Any:
    """Every feature's way by mild views: its objective as a part of lucent's final one, over the time lucent took."""
    lines = []
    for row in stored["rows"]:
        goal, whole = row["lucent"]["objective"], row["lucent"]["seconds"]
        run = row["ways"].get("mild views")
        if goal <= 0 or run is None:
            continue
        for step, value in run["course"]:
            seconds = run["prepare"] + run["loop"] * step / run["steps"]
            lines.append({"feature": row["target"], "time": seconds / whole, "objective": value / goal})
    curves = (
        alt.Chart(alt.Data(values=lines))  # pyright: ignore[reportAttributeAccessIssue]
        .mark_line(opacity=0.45, strokeWidth=1.2, color=OURS, clip=True)
        .encode(
            x=alt.X("time:Q", title="time, in units of lucent's 512 steps", axis=alt.Axis(format="%")),
            y=alt.Y("objective:Q", title="objective, of lucent's final one", axis=alt.Axis(format="%")),
            detail="feature:N",
        )
    )
    goal = alt.Chart(alt.Data(values=[{"y": 1}])).mark_rule(  # pyright: ignore[reportAttributeAccessIssue]
        color="#44403c", strokeDash=[4, 3]
    )
    return alt.layer(curves, goal.encode(y="y:Q")).properties(width=WIDTH, height=240)


def _save(chart: Any, name: str) -> Path:
    path = DOCS / "images" / f"bench-{name}.svg"
    chart.configure(font="Helvetica, Arial, sans-serif").configure_view(stroke=None).save(str(path))
    return path


if __name__ == "__main__":
    for drawn in draw_all():
        print(drawn)
