"""What was measured: how fast, against whom, and how alike the pictures are. Figures come from results' files alone."""

from __future__ import annotations

import json
from typing import Any

import altair as alt
import pandas as pd
import streamlit as st

from fvfast import differences
from fvfast.errors import FvfastError
from fvfast.store import Entry, Store
from fvfast_dashboard import charts, library, measuring, navigation, results, speedcharts, widgets

WIDE_MEASURES = {
    "objective": "final objective",
    "spectrum_slope": "spectrum slope",
    "high_frequency": "energy beyond half the Nyquist frequency",
    "colourfulness": "colourfulness",
    "contrast": "contrast",
}
BROKEN = (KeyError, TypeError, ValueError, IndexError, AttributeError)  # what a document of another shape ends in


def show() -> None:
    widgets.title("Speed and quality", "Every figure was measured, and says where. What was not measured says how to.")
    speed, quality = st.tabs(["Speed", "Quality"])
    with speed:
        _part("This machine", results.SPEED, _here)
        _part("Against other renderers", results.PEERS, _peers)
        _part("On a GPU", "gpu", _gpu)
    with quality:
        _part("Kernels against reference, step by step", results.TRAJECTORIES, _trajectories)
        _part("Pairs of renders in this store", "pairs", _pairs)
        _part("Recipes", results.QUALITY, _recipes)


def _part(heading: str, kind: str, draw: Any) -> None:
    """One part of the page; where its document is broken, a sentence in its place."""
    st.subheader(heading, anchor=False)
    try:
        draw()
    except results.Unreadable as error:
        widgets.problem(str(error))
    except BROKEN as error:
        widgets.problem(
            f"the results of {kind!r} are not as they should be ({type(error).__name__}): measure them again"
        )


# Speed -----------------------------------------------------------------------------------------------------


def _here() -> None:
    _measure_now()
    document, own = results.speed()
    if document is None:
        widgets.not_measured(
            "fvfast's step against the loop as a user of lucent runs it, on this machine's processors.",
            results.COMMANDS[results.SPEED],
        )
        return
    left, right = st.columns([1, 1.7], gap="large")
    with left:
        for way, ratio in (document["ratios"] or {}).items():
            st.metric(way, f"{ratio:.2f}×", help="How many times as fast as the lucent-style loop.")
        if document["ratios"] is None:
            st.warning("The check of the results failed: no ratio is given.", icon=":material/gpp_bad:")
    with right:
        charts.show(speedcharts.ways(speedcharts.speed_frame(document), "ms a step of one image (p20 to p80)"))
    st.caption(
        f"{document['model']} {document['layer']}, {document['size']} px, float32, {document['rounds']} interleaved "
        f"rounds. Objective and gradient were checked against the unmodified network in the same run."
    )
    widgets.stamp(document.get("machine"), own)


def _measure_now() -> None:
    job = measuring.measurement()
    if job.running:
        _progress()
        return
    words, button = st.columns([3, 1], vertical_alignment="center")
    words.markdown("fvfast's step and the loop as a user of lucent runs it, in turns, on this machine's processors.")
    if button.button("Measure now", icon=":material/timer:", width="stretch", help="Takes about 40 seconds."):
        job.start()
        st.rerun()
    if job.failure:
        widgets.problem(job.failure.rstrip("."))


@st.fragment(run_every=0.7)
def _progress() -> None:
    job = measuring.measurement()
    if not job.running:
        st.rerun()
    bar, button = st.columns([3, 1], vertical_alignment="center")
    bar.progress(min(1.0, job.part), f"{job.part:.0%} · {job.words}")
    button.button("Stop", icon=":material/stop:", on_click=job.stop, width="stretch")


def _peers() -> None:
    document = results.load(results.PEERS)
    if document is None:
        widgets.not_measured("torch-lucent, torch-dreams, horama and others.", results.COMMANDS[results.PEERS])
        return
    cells = list(dict.fromkeys((r["size"], r["target"], r["batch"]) for r in document["rows"]))
    cell = st.selectbox(
        "Task", cells, format_func=lambda c: f"{c[1]}, {c[0]} px, {c[2]} image{'s' if c[2] > 1 else ''} a step"
    )
    frame = speedcharts.peers_frame(document, *cell)
    charts.show(speedcharts.ways(frame, "steps a second (slowest to fastest round)"))
    shown = frame.rename(columns={"way": "renderer", "p50": "steps/s"}).drop(columns=["p20", "p80"])
    st.dataframe(
        shown, hide_index=True, width="stretch", column_config={"steps/s": st.column_config.NumberColumn(format="%.1f")}
    )
    failed = [r for r in document["rows"] if "failed" in r and (r["size"], r["target"], r["batch"]) == cell]
    for row in failed:
        st.caption(f"{row['contender']}: {row['failed']}")
    widgets.stamp(document.get("machine"))


def _gpu() -> None:
    reports = results.gpu_reports()
    if not reports:
        widgets.not_measured(
            "Fused kernels against eager, compiled and graphed PyTorch, per operation and end to end; the share of a "
            "step outside the network; the roofline; channels a minute. It needs an NVIDIA GPU, and six minutes.",
            results.COMMANDS["gpu"],
        )
        return
    report = reports[st.selectbox("Report", list(reports))]
    unfinished = results.unfinished(report)
    if unfinished:
        stages = ", ".join(f"{name} ({state})" for name, state in unfinished.items())
        st.warning(f"Stages of this report that did not pass: {stages}.", icon=":material/warning:")
    _kernels(report)
    _steps(report)
    _channels(report)
    widgets.stamp(report["machine"])


def _kernels(report: dict[str, Any]) -> None:
    found = speedcharts.timed(report)
    if not found:
        st.caption(f"The kernels were not measured ({_state(report, 'kernels')}).")
        return
    cells = list(dict.fromkeys((r["size"], r["batch"]) for r in found))
    left, right = st.columns(2, gap="large")
    with left:
        st.markdown("**Everything of a step outside the network**")
        size, batch = st.selectbox("Images", cells, format_func=lambda c: f"{c[0]} px, batch {c[1]}")
        frame = speedcharts.kernel_frame(report, size, batch)
        charts.show(speedcharts.ways(frame, "milliseconds (p20 to p80)"))
        if "WRONG" in set(frame["result"]):
            st.warning("A path gave a wrong result: its time says nothing.", icon=":material/gpp_bad:")
    with right:
        st.markdown("**Roofline: how near the kernels come to the speed of a copy**")
        roofline = speedcharts.roofline_frame(report)
        if not len(roofline):
            st.caption("The fused kernels were not measured.")
            return
        charts.roofline(roofline, results.found(report, "kernels")["copy_bytes_per_second"] / 1e9)


def _steps(report: dict[str, Any]) -> None:
    steps = {step["case"]: step for step in results.rows(report, "steps") if step["ms"].get("fvfast")}
    if not steps:
        st.caption(f"Whole steps were not measured ({_state(report, 'steps')}).")
        return
    left, right = st.columns(2, gap="large")
    with left:
        st.markdown("**Whole steps**")
        step = steps[st.selectbox("Step", list(steps))]
        charts.show(speedcharts.ways(speedcharts.step_frame(step), "milliseconds a step (p20 to p80)"))
        names = ("lucent-style", "reference", "graphed", "compiled")
        for cell, name in zip(st.columns(len(names)), names, strict=True):
            cell.metric(f"Over {name}", speedcharts.ratio_text(step, name))
    shares = [{"case": c, "share": s["share outside the network"]} for c, s in steps.items()
              if "share outside the network" in s]  # fmt: skip
    if not shares:
        return
    with right:
        st.markdown("**Share of fvfast's step outside the network**")
        charts.show(
            alt.Chart(pd.DataFrame(shares))
            .mark_bar(height={"band": 0.62}, cornerRadiusEnd=3)
            .encode(
                x=alt.X("share:Q", title="share of a step", axis=alt.Axis(format="%")),
                y=alt.Y("case:N", sort=list(steps), title=None, axis=alt.Axis(labelLimit=300)),
                tooltip=["case:N", alt.Tooltip("share:Q", format=".1%")],
            )
            .properties(height=max(120, 34 * len(shares)))
        )


def _channels(report: dict[str, Any]) -> None:
    measured = [row for row in results.rows(report, "atlas") if "channels a minute" in row]
    if not measured:
        st.caption(f"Channels a minute were not measured ({_state(report, 'atlas')}).")
        return
    st.markdown("**Channels of GoogLeNet a minute**")
    for cell, row in zip(st.columns(len(measured)), measured, strict=True):
        cell.metric(f"Batch {row['batch']}", f"{row['channels a minute']:,.0f}", help=f"{row['steps']} steps each.")


def _state(report: dict[str, Any], stage: str) -> str:
    return report["stages"].get(stage, {}).get("state", "left out")


# Quality ---------------------------------------------------------------------------------------------------


def _trajectories() -> None:
    document = results.load(results.TRAJECTORIES)
    if document is None:
        widgets.not_measured(
            "How far the kernels' images come apart from the reference path's on the way through the same steps.",
            results.COMMANDS[results.TRAJECTORIES],
        )
        return
    left, right = st.columns([1.6, 1], gap="large")
    with left:
        charts.show(speedcharts.distances(document))
    with right:
        for name, value in document["final objective"].items():
            st.metric(f"Final objective, {name}", f"{value:.3f}")
    case = document["case"]
    kernels = {"interpreted": "in Triton's interpreter", "compiled": "on a GPU"}.get(str(document.get("kernels")), "")
    st.caption(
        f"Medians over {case['batch']} images of {case['size']} px, {case['model']} {case['layer']}, float32, kernels "
        f"{kernels}. Adam divides every gradient by its own size, so that any rounding grows: the other line is the "
        "reference path against itself, begun a rounding apart."
    )
    widgets.stamp(document.get("machine"))


def _pairs() -> None:
    """Renders of this store that differ in nothing but the path or precision they took, the worst first."""
    store = library.open_store()
    found = _apart(store) if store else []
    if store is None or not found:
        widgets.not_measured(
            "No two renders in this store differ in nothing but the path they took. On a GPU, render a feature twice:",
            "fvfast render MODEL TARGET --store DIR\n"
            "FVFAST_KERNELS=reference fvfast render MODEL TARGET --dtype float32 --store DIR",
        )
        return
    frame = pd.DataFrame(
        [{"target": a.target, "variant": side.path + ", " + side.dtype, "objective": side.objective_end}
         for a, b, _ in found for side in (a, b)]
    )  # fmt: skip
    charts.show(speedcharts.distribution(frame, "objective", "final objective"))
    st.markdown("**The worst pairs**")
    for a, b, rms in found[:4]:
        left, right, words = st.columns([1, 1, 2.4], vertical_alignment="center")
        for place, side in ((left, a), (right, b)):
            picture = library.picture(store, side.image)
            if picture:
                place.image(picture, caption=f"{side.path}, {side.dtype}", width="stretch")
        with words:
            st.markdown(f"**{widgets.plain(a.target)}**, {widgets.plain(str(a.recipe.get('name')))}, seed {a.seed}")
            st.markdown(f"RMS difference {rms:.3f}; objectives {a.objective_end:.3f} and {b.objective_end:.3f}")
            navigation.link("compare", "Compare", icon=":material/compare:", a=a.key, b=b.key)


def _apart(store: Store) -> list[tuple[Entry, Entry, float]]:
    groups: dict[tuple[Any, ...], list[Entry]] = {}
    for entry in library.rows(store, limit=5000).entries:
        recipe = json.dumps(entry.recipe, sort_keys=True)
        same = (entry.model, entry.weights_digest, entry.target, recipe, entry.size, entry.seed)
        groups.setdefault(same, []).append(entry)
    found = []
    for a, *others in groups.values():
        for b in others:
            pictures = [library.picture(store, one.image) for one in (a, b)]
            try:
                images = [differences.decode(picture) for picture in pictures if picture]
            except FvfastError:
                continue
            if len(images) == 2 and (a.path, a.dtype) != (b.path, b.dtype):
                found.append((a, b, float((images[0] - images[1]).square().mean().sqrt())))
    return sorted(found, key=lambda pair: -pair[2])


def _recipes() -> None:
    document = results.load(results.QUALITY)
    if document is None:
        widgets.not_measured("Objectives and image statistics of every recipe.", results.COMMANDS[results.QUALITY])
        return
    frame = pd.DataFrame(document["rows"])
    measures = [c for c in frame.columns if c not in ("seed", "size") and pd.api.types.is_numeric_dtype(frame[c])]
    if not measures or "variant" not in frame:
        raise KeyError("variant")
    names = {name: WIDE_MEASURES.get(name, name.replace("_", " ")) for name in map(str, measures)}
    measure = st.selectbox("Measure", list(names), format_func=names.__getitem__)
    charts.show(speedcharts.distribution(frame, measure, names[measure]))
    st.caption("A tick is a render, a dot the recipe's median.")
    widgets.stamp(document.get("machine"))
