"""Curves: a reading by layer, by relearning step, or as one mean a role, with bands over facts and seeds.

Read it as: two curves differ where their bands part; a gap in a curve is a reading that was not taken.
Does not show: that the model uses what a layer holds; confirm with an edit at that layer.
"""

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Literal, get_args

import numpy as np
import plotly.graph_objects as go

from workbench.errors import BadInput
from workbench.figures_bands import Band, band_of
from workbench.figures_style import INK, Look, describes, finish, look_of, number, plain
from workbench.trace import Trace


def layer_curve(trace: Trace) -> go.Figure:
    """One model's reading by layer."""
    return compare_layers({str(trace.notes.get("role", trace.name)): trace}, trace.name, trace.units, None)


def compare_layers(traces: Mapping[str, Trace], title: str, units: str, chance: float | None) -> go.Figure:
    """A reading by layer, all roles in one picture.

    Args:
        traces: role (`base`, `checkpoint`, `reference`, `never taught`) -> trace with axes layer and, where there
            are some, seed and fact.
        title: what was read.
        units: unit of the numbers.
        chance: what knowing nothing reads, drawn as a line; None when unknown.
    """
    _require(traces, "layer")
    figure = go.Figure()
    bands = {role: band_of(trace, "layer") for role, trace in traces.items()}
    for position, (role, band) in enumerate(bands.items()):
        curve(figure, role, band, list(band.labels), look_of(role, position), ("layer", units))
    if chance is not None:
        figure.add_hline(y=chance, line={"color": INK, "width": 1, "dash": "longdashdot"})
        figure.add_annotation(
            x=1,
            xref="paper",
            y=chance,
            text=f"chance {number(chance)}",
            showarrow=False,
            xanchor="right",
            yanchor="bottom",
            font={"size": 11},
            bgcolor="rgba(255,255,255,0.8)",
        )
    order = list(dict.fromkeys(label for band in bands.values() for label in band.labels))
    figure.update_xaxes(title_text="layer", type="category", categoryorder="array", categoryarray=order)
    figure.update_yaxes(title_text=plain(units), rangemode="tozero")
    peaks = "; ".join(_peak(role, band) for role, band in bands.items())
    floor = "" if chance is None else f"; chance is {number(chance)}"
    return finish(figure, title, f"{title} by layer ({units}), mean and 95% band: {peaks}{floor}.")


STEPS = {
    "in_context": "facts in the context",
    "latent_perturbation": "length of the added vector",
    "probe_curve": "training subjects",
}
"""What the steps of a trace count, where they are not training steps."""


Spacing = Literal["log", "to scale", "evenly"]
"""How steps lie apart."""

SPACINGS: tuple[Spacing, ...] = get_args(Spacing)


def relearn_curves(traces: Mapping[str, Trace], title: str = "Relearning", spacing: Spacing = "to scale") -> go.Figure:
    """The forget score against relearning steps (or facts in the context), all roles in one picture.

    Args:
        traces: role -> trace with axes step and, where there are some, seed and fact.
        title: what is relearned and read.
        spacing: of the steps; `log` shows step 0, for which a logarithmic axis has no place, apart at the left.
            Steps that are no numbers lie evenly.
    """
    _require(traces, "step")
    figure = go.Figure()
    bands = {role: band_of(trace, "step") for role, trace in traces.items()}
    units = next(iter(traces.values())).units
    steps = {role: _numbers(band.labels) for role, band in bands.items()}
    if any(found is None for found in steps.values()):
        spacing = "evenly"
    known = sorted({step for found in steps.values() for step in found or ()})
    if spacing == "log" and (not known or known[0] < 0 or known[-1] <= 0):
        spacing = "to scale"
    for position, (role, band) in enumerate(bands.items()):
        x, look = list(band.labels) if spacing == "evenly" else steps[role] or [], look_of(role, position)
        if spacing == "log":
            _apart(figure, role, band, steps[role] or [], look, units)
        else:
            curve(figure, role, band, x, look, ("step", units))
    over = STEPS.get(next(iter(traces.values())).name, "relearning steps")
    if spacing == "log":
        _log_axes(figure, over, known)
    else:
        figure.update_xaxes(title_text=over, type="category" if spacing == "evenly" else "linear")
    figure.update_yaxes(rangemode="tozero")
    figure.update_layout(yaxis_title_text=plain(units))
    ways = "; ".join(_way(role, band) for role, band in bands.items())
    return finish(figure, title, f"{title}: {units} against {over}, mean and 95% band: {ways}.")


def _apart(figure: go.Figure, role: str, band: Band, steps: list[float], look: Look, units: str) -> None:
    """Steps above 0 as a curve; step 0 as a mark with its interval on the second x axis, which lies left of it."""
    later = [i for i, step in enumerate(steps) if step > 0]
    curve(figure, role, _cut(band, later), [steps[i] for i in later], look, ("step", units))
    for i in (i for i, step in enumerate(steps) if step == 0):
        first = _cut(band, [i])
        figure.add_scatter(
            x=[0.0],
            y=first.mean,
            xaxis="x2",
            name=plain(role),
            legendgroup=role,
            showlegend=False,
            mode="markers",
            cliponaxis=False,
            marker={"color": look.color, "symbol": look.marker, "size": 7},
            error_y={
                "type": "data",
                "symmetric": False,
                "array": first.high - first.mean,
                "arrayminus": first.mean - first.low,
                "thickness": 1.6,
                "width": 4,
            },
            customdata=np.stack([first.low, first.high], axis=1),
            meta=describes("", role, "step", units, ["low", "high"]),
            hovertemplate="step 0: %{y:.3g} [%{customdata[0]:.3g}, %{customdata[1]:.3g}]<extra>"
            + plain(role)
            + "</extra>",
        )


def _cut(band: Band, which: list[int]) -> Band:
    return replace(
        band,
        labels=tuple(band.labels[i] for i in which),
        mean=band.mean[which],
        low=band.low[which],
        high=band.high[which],
    )


def _log_axes(figure: go.Figure, over: str, steps: list[float]) -> None:
    """A logarithmic axis for the steps above 0, and left of it a place for step 0."""
    later, zero = [step for step in steps if step > 0], 0.0 in steps
    ends = [math.log10(later[0]), math.log10(later[-1])]
    room = 0.04 * (ends[1] - ends[0]) or 0.3
    figure.update_layout(
        xaxis={
            "type": "log",
            "domain": [0.09, 1] if zero else [0, 1],
            "title": {"text": f"{over}, logarithmic" + (" (step 0 apart)" if zero else "")},
            "tickvals": later,
            "ticktext": [f"{step:g}" for step in later],
            "range": [ends[0] - room, ends[1] + room],
        }
    )
    if zero:
        figure.update_layout(
            xaxis2={"domain": [0, 0.06], "range": [-1, 1], "tickvals": [0], "ticktext": ["0"], "anchor": "y"},
            yaxis={"anchor": "free", "position": 0},
        )


def compare_means(readings: Mapping[str, Mapping[str, Trace]], title: str, units: str) -> go.Figure:
    """One mean a reading and role, as dots with intervals.

    Args:
        readings: reading -> role -> trace with the axes fact, text and seed only.
        title: what the readings have in common.
        units: unit of the numbers.
    """
    figure = go.Figure()
    roles = list(dict.fromkeys(role for by_role in readings.values() for role in by_role))
    found = {
        role: {name: band_of(by_role[role]) for name, by_role in readings.items() if role in by_role} for role in roles
    }
    for position, role in reversed(list(enumerate(roles))):  # plotly stacks upwards: the first role ends on top
        _dots(figure, role, found[role], look_of(role, position), units)
    said = [
        f"{name}: " + ", ".join(f"{role} {number(float(found[role][name].mean[0]))}" for role in by_role)
        for name, by_role in readings.items()
    ]
    names = [plain(name, 60) for name in readings]
    figure.update_yaxes(
        type="category",
        categoryorder="array",
        categoryarray=names[::-1],
        range=[-0.7, len(names) - 0.3],
        ticklabelstandoff=8,
    )
    figure.update_xaxes(title_text=plain(units), rangemode="tozero")
    figure.update_layout(scattermode="group", scattergap=0.55)
    alt = f"{title}, mean and 95% interval. {'; '.join(said).capitalize()}."
    finish(figure, title, alt, 140 + (20 + 14 * len(roles)) * len(names))
    return figure.update_layout(legend={"traceorder": "reversed"})


def _dots(figure: go.Figure, role: str, bands: Mapping[str, Band], look: Look, units: str) -> None:
    mean, low, high = (np.array([getattr(b, end)[0] for b in bands.values()]) for end in ("mean", "low", "high"))
    items = [b.items for b in bands.values()]
    figure.add_scatter(
        x=mean,
        y=[plain(name, 60) for name in bands],
        name=role,
        mode="markers",
        cliponaxis=False,
        orientation="h",
        marker={"color": look.color, "symbol": look.marker, "size": 10},
        error_x={
            "type": "data",
            "symmetric": False,
            "array": high - mean,
            "arrayminus": mean - low,
            "thickness": 1.6,
            "width": 4,
        },
        customdata=list(zip(low, high, items, strict=True)),
        meta=describes("", role, units, "reading", ["low", "high", "items"]),
        hovertemplate="%{y}<br>%{x:.3g} [%{customdata[0]:.3g}, %{customdata[1]:.3g}], "
        "%{customdata[2]} items<extra>" + plain(role) + "</extra>",
    )


def _require(traces: Mapping[str, Trace], axis: str) -> None:
    if not traces:
        raise BadInput(f"There is no trace to draw by {axis}: give at least one role")
    for trace in traces.values():
        trace.axis(axis)


def curve(
    figure: go.Figure,
    role: str,
    band: Band,
    x: list[str] | list[float],
    look: Look,
    columns: tuple[str, str],
    ends: tuple[str, str] = ("low", "high"),
) -> None:
    """Add a line with markers over its band.

    Args:
        figure: what it is added to.
        role: whose it is.
        band: the numbers.
        x: where they lie.
        look: how the role is told apart.
        columns: names of what lies along x and y.
        ends: names of the lower and the upper end of the band.
    """
    outline_x, outline_y = _outline(x, band)
    if outline_x:
        figure.add_scatter(
            x=outline_x,
            y=outline_y,
            fill="toself",
            fillcolor=_faint(look.color),
            mode="lines",
            line={"width": 0},
            hoverinfo="skip",
            showlegend=False,
            legendgroup=role,
        )
    figure.add_scatter(
        x=x,
        y=band.mean,
        name=plain(role),
        legendgroup=role,
        mode="lines+markers",
        connectgaps=False,
        line={"color": look.color, "dash": look.dash, "width": 2},
        marker={"color": look.color, "symbol": look.marker, "size": 7},
        customdata=np.stack([band.low, band.high], axis=1),
        meta=describes("", role, *columns, ends),
        hovertemplate=columns[0]
        + " %{x}: %{y:.3g} [%{customdata[0]:.3g}, %{customdata[1]:.3g}]<extra>"
        + plain(role)
        + "</extra>",
    )


def _outline(x: list[str] | list[float], band: Band) -> tuple[list[str | float | None], list[float | None]]:
    """The band as closed polygons, one for every run of layers without a gap."""
    known = np.isfinite(band.low) & np.isfinite(band.high)
    along: list[str | float | None] = []
    up: list[float | None] = []
    for run in np.split(np.arange(len(known)), np.flatnonzero(np.diff(known.astype(int))) + 1):
        if not len(run) or not known[run[0]]:
            continue
        there, back = run.tolist(), run[::-1].tolist()
        along += [x[i] for i in there + back] + [None]
        up += [float(band.high[i]) for i in there] + [float(band.low[i]) for i in back] + [None]
    return along[:-1], up[:-1]


def _faint(color: str) -> str:
    red, green, blue = (int(color[i : i + 2], 16) for i in (1, 3, 5))
    return f"rgba({red},{green},{blue},0.15)"


def _peak(role: str, band: Band) -> str:
    if not np.isfinite(band.mean).any():
        return f"{role} not measured"
    best = int(np.nanargmax(band.mean))
    low, high = float(band.low[best]), float(band.high[best])
    span = f" [{number(low)}, {number(high)}]" if np.isfinite(low) else ""
    return f"{role} highest {number(float(band.mean[best]))}{span} at layer {band.labels[best]}{band.of_what}"


def _way(role: str, band: Band) -> str:
    return (
        f"{role} goes from {number(float(band.mean[0]))} at {band.labels[0]} to "
        f"{number(float(band.mean[-1]))} at {band.labels[-1]}{band.of_what}"
    )


def _numbers(labels: tuple[str, ...]) -> list[float] | None:
    try:
        return [float(label) for label in labels]
    except ValueError:
        return None
