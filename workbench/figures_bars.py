"""Ranked bars: the strongest entries along one axis, of one model or of all roles side by side.

Read it as: the order is that of the first model drawn; each mark is the mean over facts and seeds (the largest along
any other axis).
Does not show: the entries below the cut, of which there may be thousands; the picture says how many.
"""

from collections.abc import Mapping

import numpy as np
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from workbench.errors import BadInput
from workbench.figures_style import ITEMS, describes, finish, look_of, number, plain
from workbench.trace import Trace

TOP = 20


def bar_axis(trace: Trace) -> str:
    """The axis bars are drawn over: `site` if there is one, else the first that is no item axis, else the first."""
    rest = [axis for axis in trace.axes if axis not in ITEMS]
    return "site" if "site" in rest else (rest or list(trace.axes))[0]


def ranked_bars(trace: Trace, k: int = TOP) -> go.Figure:
    """The k highest entries of one model, best on top."""
    axis = bar_axis(trace)
    scores, labels = trace.scores(axis), trace.labels[axis]
    order = _best(scores, k)
    figure = go.Figure(
        go.Bar(
            x=scores[order],
            y=[plain(labels[i], 60) for i in order],
            orientation="h",
            marker={"color": "#0072B2"},
            meta=describes("", "", trace.units, axis),
            hovertemplate="%{y}: %{x:.3g}<extra></extra>",
        )
    )
    return _ranked(figure, trace, axis, (order, f"highest {_named(labels, scores, order)}"))


def compare_ranked(traces: Mapping[str, Trace], k: int = TOP) -> go.Figure:
    """The k highest entries of the first role, with the same entries of the others beside them."""
    if not traces:
        raise BadInput("There is no trace to rank: give at least one role")
    first = next(iter(traces.values()))
    axis = bar_axis(first)
    order = _best(first.scores(axis), k)
    chosen = [first.labels[axis][i] for i in order]
    figure, said = go.Figure(), []
    for position, (role, trace) in enumerate(traces.items()):
        known = dict(zip(trace.labels[axis], trace.scores(axis), strict=True))
        values = np.array([known.get(label, np.nan) for label in chosen])
        look = look_of(role, position)
        figure.add_scatter(
            x=values,
            y=[plain(label, 60) for label in chosen],
            name=plain(role),
            mode="markers",
            marker={"color": look.color, "symbol": look.marker, "size": 9},
            meta=describes("", role, first.units, axis),
            hovertemplate="%{y}: %{x:.3g}<extra>" + plain(role) + "</extra>",
        )
        said.append(f"{role} {number(float(values[0])) if len(values) else 'not measured'}")
    top = f"at {chosen[0]}, the highest of {next(iter(traces))}: {', '.join(said)}" if chosen else "nothing was read"
    return _ranked(figure, first, axis, (order, top))


def measure_bars(trace: Trace, k: int = TOP) -> go.Figure:
    """Several measures of the same entries, a panel a measure, because their units differ; entries in stored order."""
    measures = trace.labels["measure"]
    axis = bar_axis(trace)
    names = [plain(label, 60) for label in trace.labels[axis][:k]]
    figure = make_subplots(
        1, len(measures), shared_yaxes=True, subplot_titles=[plain(m) for m in measures], horizontal_spacing=0.03
    )
    means = []
    for column, measure in enumerate(measures, start=1):
        scores = trace.pick("measure", measure).scores(axis)
        known = scores[np.isfinite(scores)]
        means.append(f"{measure} {number(float(known.mean()) if len(known) else None)}")
        figure.add_bar(
            x=scores[:k],
            y=names,
            orientation="h",
            marker={"color": "#0072B2"},
            showlegend=False,
            meta=describes("", measure, "value", axis),
            hovertemplate="%{y}: %{x:.3g}<extra></extra>",
            row=1,
            col=column,
        )
    figure.update_yaxes(type="category", categoryorder="array", categoryarray=names[::-1])
    total = len(trace.labels[axis])
    alt = f"{trace.name}, means over {total} entries: {', '.join(means)}."
    finish(figure, f"{trace.name} (first {len(names)} of {total})", alt, 130 + 20 * max(len(names), 3))
    return figure.update_layout(margin={"t": 74})


def _best(scores: np.ndarray, k: int) -> list[int]:
    order = [int(i) for i in np.argsort(-scores, kind="stable") if np.isfinite(scores[i])]
    return order[:k]


def _named(labels: tuple[str, ...], scores: np.ndarray, order: list[int]) -> str:
    return ", ".join(f"{labels[i]} {number(float(scores[i]))}" for i in order[:3]) or "nothing: no entry was read"


def _ranked(figure: go.Figure, trace: Trace, axis: str, found: tuple[list[int], str]) -> go.Figure:
    order, top = found
    total = len(trace.labels[axis])
    unread = int((~np.isfinite(trace.scores(axis))).sum())
    names = [plain(trace.labels[axis][i], 60) for i in order]
    figure.update_yaxes(type="category", categoryorder="array", categoryarray=names[::-1])
    figure.update_xaxes(title_text=plain(trace.units), rangemode="tozero")
    of = f"top {len(order)} of {total}" if len(order) < total else f"all {total}"
    missing = f"; {unread} not measured" if unread else ""
    return finish(
        figure,
        f"{trace.name} ({of}, by {axis})",
        f"{trace.name} ({trace.units}), {of} by {axis}: {top}{missing}.",
        130 + 20 * max(len(order), 3),
    )
