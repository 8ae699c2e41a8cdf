"""The look all pictures share: colours with a second mark each, scales, layout, alternative text, the table drawn.

Read it as: a role or a status is never told by colour alone (dash and marker, or symbol and word, say it too).
Scales: RdBu symmetric round 0 where numbers have a sign, Cividis from 0 where they have none.
Does not show: anything by itself; the `figures_*` modules draw with it.
"""

import html
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from workbench.evidence import Evidence
from workbench.trace import ITEM_AXES, Trace

ITEMS = (*ITEM_AXES, "text")
"""Axes a picture takes the mean over."""

INK, MUTED, RULE, NOISE = "#1f2328", "#59636e", "#d8dee4", "#cdcdcd"
FONT = "system-ui, -apple-system, 'Segoe UI', Roboto, 'Helvetica Neue', Arial, sans-serif"


@dataclass(frozen=True)
class Look:
    """How one role is told apart: three ways, so that print and colour-blind eyes keep two."""

    color: str
    """Okabe-Ito hue."""
    dash: str
    """Line style."""
    marker: str
    """Marker shape."""


ROLE_LOOKS: dict[str, Look] = {
    "base": Look("#0072B2", "dash", "circle"),
    "checkpoint": Look("#D55E00", "solid", "square"),
    "reference": Look("#009E73", "dashdot", "diamond"),
    "never taught": Look("#5f5f5f", "dot", "x"),
}
"""The roles of an audit."""

SPARE_LOOKS = (
    Look("#CC79A7", "longdash", "triangle-up"),
    Look("#56B4E9", "longdashdot", "triangle-down"),
    Look("#E69F00", "solid", "star"),
    Look("#000000", "dot", "pentagon"),
)
"""For any other role, in order of appearance."""


def look_of(role: str, position: int = 0) -> Look:
    """The look of a role; roles that an audit does not know take the spare ones by position."""
    return ROLE_LOOKS.get(role, SPARE_LOOKS[position % len(SPARE_LOOKS)])


@dataclass(frozen=True)
class StatusLook:
    """How the status of a claim is told: hue, marker, a symbol and a word."""

    color: str
    """Okabe-Ito hue."""
    marker: str
    """Marker shape."""
    symbol: str
    """One character for tables."""
    word: str
    """What it says."""


STATUS_LOOKS: dict[str, StatusLook] = {
    "PASS": StatusLook("#009E73", "circle", "✓", "pass"),
    "WARN": StatusLook("#E69F00", "triangle-up", "!", "pass, look at it"),
    "FAIL": StatusLook("#D55E00", "x", "✕", "fail"),
    "INCONCLUSIVE": StatusLook("#0072B2", "diamond", "?", "inconclusive"),
    "NOT_RUN": StatusLook("#6e7781", "circle-open", "–", "not run"),
    "ERROR": StatusLook("#CC79A7", "square", "⚠", "error"),
}
"""Every status of `workbench.evidence.Status`."""


def number(value: float | None) -> str:
    """Three significant digits; what is missing reads `not measured`, never 0."""
    if value is None or not math.isfinite(value):
        return "not measured"
    text = f"{value:.3g}" if abs(value) < 1000 else f"{value:,.0f}"
    return "0" if text == "-0" else text


def plain(text: object, width: int = 0) -> str:
    """Text made safe for plotly, which reads tags such as `<a>` in any label; shortened when `width` is given."""
    words = str(text)
    if width and len(words) > width:
        words = words[: width - 1] + "…"
    return html.escape(words, quote=False)


def status_words(evidence: Evidence) -> str:
    """Symbol and word of a claim's status."""
    look = STATUS_LOOKS[evidence.status]
    return f"{look.symbol} {look.word}"


EQUIVALENT = "≡"
"""Mark of a claim shown equivalent to the reference after Holm's adjustment; in pictures a ring says it too."""

RING = {"color": INK, "symbol": "circle-open", "size": 19, "line": {"width": 1.6}}
"""The ring round the mark of such a claim."""

RING_WORDS = f"{EQUIVALENT} equivalent"
"""The ring in a legend; what stands under the picture says to what, and after which adjustment."""


def holm_mark(evidence: Evidence) -> str:
    """The Holm-adjusted p of the equivalence test, marked where that was shown; empty where none was adjusted."""
    if evidence.equivalent is None:
        return ""
    return (f"{EQUIVALENT} " if evidence.equivalent else "") + f"p {number(evidence.p_equivalence)}"


def equivalence_words(evidence: Evidence) -> str:
    """The equivalence test in words: its p, whether that is adjusted and over how many; a dash where it was not made.

    Only a claim that is held against a reference is tested so; a fail rests on the interval and has no p.
    """
    if evidence.p_equivalence is None:
        return "–"
    if evidence.holm_over is None:
        known = ", not adjusted" if evidence.p_unadjusted is not None else ""
        return f"p {number(evidence.p_equivalence)}{known}"
    return f"{holm_mark(evidence)} after Holm over {evidence.holm_over}, {number(evidence.p_unadjusted)} before"


def color_scale(values: np.ndarray) -> dict[str, Any]:
    """A plotly colour axis: symmetric RdBu when any number is negative, else Cividis from 0."""
    if (values[np.isfinite(values)] < 0).any():
        return diverging_scale(values)
    return {"colorscale": "Cividis", "cmin": 0, "cmax": _largest(values)}


def diverging_scale(values: np.ndarray) -> dict[str, Any]:
    """RdBu, symmetric round 0 whatever the signs: blue is up."""
    largest = _largest(values)
    return {"colorscale": "RdBu", "cmin": -largest, "cmax": largest, "cmid": 0}


def _largest(values: np.ndarray) -> float:
    """Largest absolute number, 1 when there is none above zero, so that a scale always has a length."""
    finite = np.abs(values[np.isfinite(values)])
    return float(finite.max(initial=0.0)) or 1.0


def finish(figure: go.Figure, title: str, alt: str, height: int = 380) -> go.Figure:
    """Give a figure the shared layout and its sentence for those who cannot see it."""
    axis = {"gridcolor": "#eceff2", "linecolor": RULE, "zerolinecolor": RULE, "automargin": True, "ticks": ""}
    figure.update_xaxes(**axis)
    figure.update_yaxes(**axis)
    figure.update_layout(
        template="plotly_white",
        height=height,
        meta={"alt": alt},
        font={"family": FONT, "size": 12, "color": INK},
        title={
            "text": plain(title, 110),
            "x": 0,
            "xanchor": "left",
            "xref": "container",
            "y": 1,
            "yanchor": "top",
            "yref": "container",
            "pad": {"t": 12, "l": 4},
            "font": {"size": 14},
        },
        margin={"l": 72, "r": 20, "t": 62, "b": 58},  # enough for most labels: for more a browser draws it all twice
        legend={"orientation": "h", "x": 0, "xanchor": "left", "y": 1, "yanchor": "bottom", "title": {"text": ""}},
        hoverlabel={"font": {"family": FONT}},
    )
    return figure


ROW = 19
"""Pixels of a row of a legend."""


def legend_height(names: Sequence[str], width: int = 720) -> int:
    """Pixels that a legend above a picture takes, so that it can be kept clear of the title.

    Args:
        names: its entries; plotly gives all the width of the longest.
        width: of the picture, where it is narrow.
    """
    longest = max((len(name) for name in names), default=0)
    columns = max(1, width // round(6.5 * longest + 45))
    return ROW * max(1, math.ceil(len(names) / columns))


def alt_text(figure: go.Figure) -> str:
    """The sentence that says what a figure shows; empty for a figure that is not ours."""
    layout: Any = figure.layout
    meta = layout.meta
    return str(meta.get("alt", "")) if isinstance(meta, Mapping) else ""


def describes(panel: str, series: str, x: str, y: str, extra: Sequence[str] = ()) -> dict[str, Any]:
    """What a drawn series holds, kept as its `meta`, so that the table under a picture is what the picture draws.

    Args:
        panel: the panel it lies in; empty when there is one.
        series: its name.
        x: column name of what lies along x.
        y: column name of what lies along y.
        extra: column names of its customdata; on a heat map these replace the colour value.
    """
    return {"panel": panel, "series": series, "x": x, "y": y, "extra": list(extra)}


def table_of(drawn: go.Figure | Trace) -> pd.DataFrame:
    """The numbers a figure draws, one row a mark; of a trace, all its numbers. What was not read is NaN."""
    if isinstance(drawn, Trace):
        return drawn.to_frame()
    every: Sequence[Any] = drawn.data
    frames = [_series_table(series) for series in every if isinstance(series.meta, Mapping)]
    table = pd.concat(frames, ignore_index=True) if frames else pd.DataFrame()
    for column in ("panel", "series"):
        if column in table and not any(table[column]):
            table = table.drop(columns=column)
    return table


def rows_of(figure: go.Figure) -> int:
    """Rows of `table_of`, without making it."""
    every: Sequence[Any] = figure.data
    return sum(
        len(series.x) * (len(series.y) if series.type == "heatmap" else 1)
        for series in every
        if isinstance(series.meta, Mapping)
    )


def _series_table(series: Any) -> pd.DataFrame:
    meta = series.meta
    head = {"panel": meta["panel"], "series": meta["series"]}
    rows = _cells(series, meta) if series.type == "heatmap" else _points(series, meta)
    return pd.DataFrame([{name: _unescaped(value) for name, value in (head | row).items()} for row in rows])


def _points(series: Any, meta: Mapping[str, Any]) -> list[dict[str, Any]]:
    extra = series.customdata if series.customdata is not None else [()] * len(series.x)
    return [
        {meta["x"]: x, meta["y"]: y} | dict(zip(meta["extra"], more, strict=False))
        for x, y, more in zip(series.x, series.y, extra, strict=True)
    ]


def _cells(series: Any, meta: Mapping[str, Any]) -> list[dict[str, Any]]:
    # Every look at `series.customdata` goes through plotly's checks, so it is taken out once.
    across, held = list(series.x), series.customdata
    return [
        {meta["y"]: y, meta["x"]: x} | dict(zip(meta["extra"], cell, strict=True))
        for y, cells in zip(series.y, held, strict=True)
        for x, cell in zip(across, cells, strict=True)
    ]


def _unescaped(value: Any) -> Any:
    return html.unescape(value) if isinstance(value, str) else value
