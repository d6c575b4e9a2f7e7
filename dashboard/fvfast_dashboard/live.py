"""What a page shows of jobs while they run: progress, the picture as it grows, the curve, and the queue."""

from __future__ import annotations

import time
from collections.abc import Callable

import altair as alt
import pandas as pd
import streamlit as st
from streamlit.delta_generator import DeltaGenerator

from fvfast.cli_atlas import duration
from fvfast.tables import figure
from fvfast_dashboard import charts, jobs
from fvfast_dashboard.jobs import Job

FAST_S, SLOW_S = 0.8, 6.0  # between two looks: while something runs, and otherwise
COLOURS = {"queued": "gray", "running": "blue", "finished": "green", "cancelled": "orange", "failed": "red"}
ICONS = {
    "queued": ":material/hourglass_empty:",
    "running": ":material/autorenew:",
    "finished": ":material/check:",
    "cancelled": ":material/stop_circle:",
    "failed": ":material/error:",
}
IN_A_ROW = 4


def watch(kind: str, ended: Callable[[Job], None]) -> None:
    """Show how far the jobs of a kind ("render", "dream") are, again and again, without the rest of the page.

    ended: draws what came of a job.
    """
    busy = any(job.open for job in jobs.desk().jobs())

    @st.fragment(run_every=FAST_S if busy else SLOW_S)
    def look() -> None:
        found = jobs.desk().jobs()
        if any(job.open for job in found) != busy:
            st.rerun()  # at another pace from now on
        mine = [job for job in found if job.request.kind == kind]
        shown = _watched(kind, mine)
        if shown is not None:
            _job(shown, ended)
        _queue(kind, mine, shown)

    look()


def follow(kind: str, job: Job) -> None:
    """Have this session watch a job."""
    st.session_state[f"watched {kind}"] = job.number


def _watched(kind: str, found: list[Job]) -> Job | None:
    """The job that this session has chosen; else the one that runs; else the latest."""
    chosen = st.session_state.get(f"watched {kind}")
    by_number = {job.number: job for job in found}
    if chosen in by_number:
        return by_number[chosen]
    return next((job for job in found if job.state == "running"), next(iter(found), None))


def _job(job: Job, ended: Callable[[Job], None]) -> None:
    with st.container(border=True):
        with st.container(horizontal=True, vertical_alignment="center"):
            st.markdown(f"**{_escaped(job.request.title)}** &nbsp; {badge(job)}")
            stop = job.open and st.button(
                "Cancel", key=f"stop {job.token}", icon=":material/stop:", disabled=job.asked_to_stop
            )
        if stop:
            jobs.desk().cancel(job.number)
            st.rerun(scope="fragment")
        if job.open:
            st.progress(min(1.0, job.part), text=_progress(job))
        elif job.state == "failed":
            st.error(f"{job.sentence[:1].upper()}{job.sentence[1:]}.", icon=":material/error:")
        elif job.sentence:
            st.info(f"{job.sentence[:1].upper()}{job.sentence[1:]}.", icon=":material/info:")
        for note in job.notes:
            st.caption(f":material/info: {_escaped(note)}")
        if job.open or not (job.keys or job.file):
            _shots(job)
        else:
            ended(job)
        if job.log:
            with st.expander("The end of the worker's log"):
                st.code(job.log, language=None, wrap_lines=True)


def badge(job: Job) -> str:
    """A job's state, as coloured text."""
    return f":{COLOURS[job.state]}-badge[{ICONS[job.state]} {job.state}]"


def _progress(job: Job) -> str:
    if job.state == "queued":
        return "Waiting for its turn"
    parts = [f"{job.done} of {job.total} steps" if job.total else f"{job.done} steps" if job.done else ""]
    if job.rate:
        parts.append(f"{job.rate:.1f} steps/s")
    if job.seconds_left is not None:
        parts.append(f"{duration(job.seconds_left)} left")
    return " · ".join(part for part in (job.sentence, *parts) if part) or "Starting"


def _shots(job: Job) -> None:
    """The images on their way, and their curves."""
    if not job.shots:
        return
    rows = sorted(job.shots)
    if job.request.kind == "dream":
        cells, rest = [st.container()], st.container()  # a photograph wants to be large
    else:
        cells, rest = cells_for(len(rows))
    for cell, row in zip(cells, rows, strict=True):
        shot = job.shots[row]
        cell.image(shot.image, caption=f"step {shot.step}", width="stretch")
    with rest:
        chart(job)


def cells_for(count: int) -> tuple[list[DeltaGenerator], DeltaGenerator]:
    """Places for so many images, and one for what belongs to all of them: beside a single one, below several."""
    if count == 1:
        picture, rest = st.columns([1, 1], gap="medium")
        return [picture], rest
    columns = st.columns(IN_A_ROW if count > 2 else 2)
    return [columns[at % len(columns)].container() for at in range(count)], st.container()


def chart(job: Job) -> None:
    """The objective of each image at the steps so far."""
    curves = {row: shot.curve for row, shot in sorted(job.shots.items()) if len(shot.curve) > 1}
    if not curves:
        return
    rows = [{"step": s, "objective": v, "image": str(row + 1)} for row, curve in curves.items() for s, v in curve]
    legend = alt.Legend(orient="top", title="image") if len(curves) > 1 else None
    line = (
        alt.Chart(pd.DataFrame(rows))
        .mark_line(strokeWidth=1.8)
        .encode(
            x=alt.X("step:Q", title="step", axis=alt.Axis(tickMinStep=1)),
            y=alt.Y("objective:Q", title="objective of the view", scale=alt.Scale(zero=False)),
            color=alt.Color("image:N", legend=legend),
            tooltip=["step:Q", alt.Tooltip("objective:Q", format=".3f")],
        )
        .properties(height=charts.HEIGHT)
    )
    charts.show(line)


def _queue(kind: str, found: list[Job], shown: Job | None) -> None:
    """Every job of the kind, to look at, cancel or forget."""
    others = [job for job in found if shown is None or job.number != shown.number]
    if not others:
        return
    waiting = sum(job.state == "queued" for job in others)
    st.subheader(f"Queue and history{f' · {waiting} waiting' if waiting else ''}", anchor=False)
    for job in others[:20]:
        with st.container(horizontal=True, vertical_alignment="center"):
            st.markdown(f"{badge(job)} {_escaped(job.request.title)} &nbsp; :gray[{_when(job)}{_result(job)}]")
            if st.button("Look", key=f"look {job.token}"):
                follow(kind, job)
                st.rerun(scope="fragment")
            label, act = ("Cancel", jobs.desk().cancel) if job.open else ("Forget", jobs.desk().forget)
            if st.button(label, key=f"{label} {job.token}", disabled=job.open and job.asked_to_stop):
                act(job.number)
                st.rerun(scope="fragment")


def _when(job: Job) -> str:
    if job.state == "queued":
        return "waiting"
    if job.state == "running":
        return f"{job.part:.0%}"
    ago = duration(time.time() - (job.ended or job.created))
    return f"{ago} ago"


def _result(job: Job) -> str:
    if job.state == "failed":
        return f" · {_escaped(job.sentence)}"
    if job.keys and job.objectives:
        shown = ", ".join("?" if value is None else figure(value) for value in job.objectives[:4])
        return f" · objective {shown}{', …' if len(job.objectives) > 4 else ''}"
    return ""


def _escaped(text: str) -> str:
    """Text as Markdown shows it letter by letter."""
    return "".join(f"\\{c}" if c in r"\`*_{}[]()#+-.!|$~<>:" else c for c in text)
