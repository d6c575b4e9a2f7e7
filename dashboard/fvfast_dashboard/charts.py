"""The charts, in Altair: they take the theme's colours, light or dark, and say on their axes what is measured."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import altair as alt
import numpy as np
import pandas as pd
import plotly.express as px
import streamlit as st

HEIGHT = 300
OCHRE = "#d18a3f"  # stands out from light and dark paper, and from the bars
Chart = alt.Chart | alt.LayerChart | alt.FacetChart


def show(chart: Chart, key: str | None = None) -> None:
    """Draw a chart as wide as its place."""
    st.altair_chart(chart, width="stretch", theme="streamlit", key=key)


def histories(curves: Mapping[str, np.ndarray], mark: int | None = None) -> Chart:
    """The objective of the views against the step, one line a name. mark: a step to point out."""
    frame = pd.concat(
        [pd.DataFrame({"step": np.arange(1, len(v) + 1), "objective": v, "render": name}) for name, v in curves.items()]
    )
    names = list(curves)
    base = alt.Chart(_thinned(frame, names)).encode(
        x=alt.X("step:Q", title="step", axis=alt.Axis(tickMinStep=1)),
        y=alt.Y("objective:Q", title="objective of the view", scale=alt.Scale(zero=False)),
    )
    colour = alt.Color("render:N", sort=names, title=None, legend=_legend(names))
    tips = [alt.Tooltip("step:Q"), alt.Tooltip("objective:Q", format=".3f"), *_tip(names)]
    line = base.mark_line(strokeWidth=1.8).encode(color=colour)
    # Wide and invisible, so that hovering near a line is enough.
    points = base.mark_point(size=120, opacity=0).encode(color=colour, tooltip=tips)
    layers = [line, points]
    if mark is not None:
        rule = alt.Chart(pd.DataFrame({"step": [mark]})).mark_rule(strokeDash=[4, 3], color=OCHRE)
        layers.append(rule.encode(x="step:Q"))
    return alt.layer(*layers).properties(height=HEIGHT)


def _thinned(frame: pd.DataFrame, names: Sequence[str], most: int = 600) -> pd.DataFrame:
    """Every n-th step of long histories: a screen shows no more."""
    every = max(1, len(frame) // len(names) // most)
    return frame.loc[(frame["step"] - 1) % every == 0]


def _legend(names: Sequence[str]) -> alt.Legend | None:
    return alt.Legend(orient="top", labelLimit=320) if len(names) > 1 else None


def _tip(names: Sequence[str]) -> list[alt.Tooltip]:
    return [alt.Tooltip("render:N")] if len(names) > 1 else []


def spectra(curves: Mapping[str, tuple[np.ndarray, np.ndarray]]) -> Chart:
    """Radial power against frequency, both logarithmic, one line a name."""
    frame = pd.concat(
        [pd.DataFrame({"frequency": f, "power": np.maximum(p, 1e-12), "render": n}) for n, (f, p) in curves.items()]
    )
    names = list(curves)
    return (
        alt.Chart(frame)
        .mark_line(point=alt.OverlayMarkDef(size=28), strokeWidth=1.8)
        .encode(
            x=alt.X(
                "frequency:Q",
                title="spatial frequency (cycles/pixel)",
                scale=alt.Scale(type="log", nice=False),
                axis=alt.Axis(values=[0.01, 0.02, 0.05, 0.1, 0.2, 0.5], format="~g"),
            ),
            y=alt.Y(
                "power:Q",
                title="power",
                scale=alt.Scale(type="log"),
                axis=alt.Axis(format=".0e", values=[10.0**k for k in range(-8, 12, 2)]),
            ),
            color=alt.Color("render:N", sort=names, title=None, legend=_legend(names)),
            tooltip=[
                alt.Tooltip("frequency:Q", format=".3f"),
                alt.Tooltip("power:Q", format=".2e"),
                *_tip(names),
            ],
        )
        .properties(height=HEIGHT)
    )


# A heat scale that reads on light and on dark paper: black, petrol, amber, white.
_HEAT = np.array([[13, 14, 16], [10, 74, 74], [31, 138, 132], [224, 160, 92], [255, 246, 226]], dtype=np.float32)


def heat(values: np.ndarray, largest: float) -> np.ndarray:
    """Values [H, W] from 0 to `largest` as colours, [H, W, 3] bytes."""
    at = np.clip(values / largest if largest > 0 else np.zeros_like(values), 0, 1) * (len(_HEAT) - 1)
    low = np.minimum(at.astype(int), len(_HEAT) - 2)
    part = (at - low)[..., None]
    return (_HEAT[low] * (1 - part) + _HEAT[low + 1] * part).round().astype(np.uint8)


def heat_scale(largest: float) -> None:
    """The scale of `heat`, as a strip with its two ends."""
    stops = ", ".join(f"rgb({r:.0f} {g:.0f} {b:.0f})" for r, g, b in _HEAT)
    st.html(
        '<div style="font-size:.8rem;opacity:.85"><div style="display:flex;align-items:center;gap:.6rem"><span>0</span>'
        f'<div style="flex:1;height:.5rem;border-radius:.25rem;background:linear-gradient(90deg,{stops})"></div>'
        f"<span>{largest:.2f}</span></div>mean difference of the channels (of 0 to 1)</div>"
    )


def roofline(frame: pd.DataFrame, copy: float) -> None:
    """Rates of the kernels against what they move, under the rate of a large copy [GB/s]; hovering tells the rest."""
    figure = px.scatter(
        frame,
        x="MB",
        y="GB/s",
        color="path",
        symbol="images",
        hover_data={"share": ":.0%", "batch": True, "ms": ":.3f", "MB": ":.1f", "GB/s": ":.0f"},
        log_x=True,
        log_y=True,
    )
    figure.add_hline(
        copy,
        line_dash="dash",
        line_color=OCHRE,
        annotation_text=f"a copy: {copy:,.0f} GB/s",
        annotation_position="top left",
        annotation_font_color=OCHRE,
    )
    figure.update_yaxes(range=[np.log10(frame["GB/s"].min() / 1.5), np.log10(copy * 1.6)])
    figure.update_layout(
        height=340,
        margin={"l": 0, "r": 0, "t": 24, "b": 0},
        xaxis_title="MB moved in a step",
        yaxis_title="GB a second",
        legend_title_text="",
        legend={"orientation": "h", "y": -0.25},
    )
    st.plotly_chart(figure, width="stretch", theme="streamlit", config={"displayModeBar": False})
