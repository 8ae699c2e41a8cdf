"""Pictures of probes: a map over kinds, a learning curve, a calibration, and what is mistaken for what.

Read it as: in the map blue is more, on one scale for all models; grey with `≈` in the difference is noise. In the
calibration a probe that is as sure as it is right lies on the diagonal; below it is too sure. In the confusion a row
is a true answer and sums to 1: what lies off the diagonal is mistaken.
Does not show: that a model uses what its probe finds. Confidence is the probe's, not the model's.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import plotly.graph_objects as go

from workbench.figures_curves import relearn_curves
from workbench.figures_maps import compare_maps, map_figure, upright
from workbench.figures_style import INK, MUTED, describes, finish, look_of, number, plain
from workbench.probe_cuts import UNITS, Reliability, map_of
from workbench.trace import Trace

NAMED = 16
"""Columns of a confusion up to which each is named; beyond, the pointer tells."""


def kinds_figure(traces: Mapping[str, Trace], title: str, selectivity: bool = False) -> go.Figure:
    """Layer by kind of probe, of the base, the checkpoint, their difference and the reference (or of one model).

    Args:
        traces: role -> `probe_kinds` trace.
        title: of the picture.
        selectivity: draw accuracy less that of the same probe on shuffled answers.
    """
    return compared({role: map_of(trace, selectivity) for role, trace in traces.items()}, title)


def compared(cuts: Mapping[str, Trace], title: str) -> go.Figure:
    """Maps of the roles on one scale, or the map of the only one."""
    if "base" in cuts and "checkpoint" in cuts:
        return upright(compare_maps(cuts["base"], cuts["checkpoint"], cuts.get("reference"), title))
    role, cut = next(iter(cuts.items()))
    return upright(map_figure(cut, f"{title}: {role}"))


def learning_figure(curves: Mapping[str, Trace], title: str, chance: float | None) -> go.Figure:
    """Accuracy of the linear probe against the number of its training subjects, on a logarithmic axis."""
    figure = relearn_curves(curves, title)
    counts = sorted({int(step) for curve in curves.values() for step in curve.labels["step"]})
    figure.update_xaxes(type="log", tickvals=counts, ticktext=[str(count) for count in counts])
    if chance is not None:
        _chance(figure, chance)
    return figure


def reliability_figure(by_role: Mapping[str, Reliability], title: str) -> go.Figure:
    """Accuracy against confidence in bins, with the diagonal of a probe that is as sure as it is right."""
    figure = go.Figure()
    figure.add_scatter(
        x=[0, 1],
        y=[0, 1],
        mode="lines",
        line={"color": MUTED, "width": 1, "dash": "longdashdot"},
        hoverinfo="skip",
        showlegend=False,
    )
    for position, (role, found) in enumerate(by_role.items()):
        _bins(figure, role, found, position)
    figure.add_annotation(x=0.1, y=0.07, text="as sure as right", showarrow=False, xanchor="left", font={"size": 11})
    figure.update_xaxes(title_text="confidence: probability of the answer it chose", range=[0, 1.03])
    figure.update_yaxes(title_text="accuracy: " + UNITS, range=[-0.03, 1.05])
    said = "; ".join(
        f"{role}: calibration error {number(found.error)} over {int(found.count.sum())} choices"
        for role, found in by_role.items()
    )
    return finish(figure, title, f"{title}: accuracy in bins of the probe's confidence. {said}.")


def _bins(figure: go.Figure, role: str, found: Reliability, position: int) -> None:
    """One role: a mark a bin that holds choices, the larger the more."""
    look, there = look_of(role, position), found.count > 0
    mean, low, high = (getattr(found.right, end)[there] for end in ("mean", "low", "high"))
    share = found.count[there] / max(1, int(found.count.max()))
    figure.add_scatter(
        x=found.sure.mean[there],
        y=mean,
        name=plain(role),
        mode="markers",  # a line would make a shape of bins that hold a few choices each
        marker={"color": look.color, "symbol": look.marker, "size": 6 + 8 * np.sqrt(share)},
        error_y={"type": "data", "symmetric": False, "array": high - mean, "arrayminus": mean - low, "thickness": 1},
        customdata=np.stack([low, high, found.count[there]], axis=1),
        meta=describes("", role, "confidence", "accuracy", ["low", "high", "choices"]),
        hovertemplate="sure %{x:.2f}, right %{y:.2f} [%{customdata[0]:.2f}, %{customdata[1]:.2f}], "
        "%{customdata[2]} choices<extra>" + plain(role) + "</extra>",
    )


def confusion_figure(cuts: Mapping[str, Trace], title: str) -> go.Figure:
    """True answer by chosen answer, of all roles on one scale, clickable like any map.

    Args:
        cuts: role -> cut of `workbench.probe_cuts.confusion_of`.
        title: of the picture.
    """
    figure = compared(cuts, title)
    drawn: Sequence[Any] = figure.data
    for series in drawn:
        if series.type == "heatmap" and isinstance(series.meta, Mapping):
            series.meta = {**series.meta, "y": "answer"}
        if isinstance(series.hovertemplate, str):
            series.hovertemplate = series.hovertemplate.replace("layer %{y}, %{x}", "answer %{y}, chosen %{x}")
    figure.update_yaxes(title_text="true answer", col=1)
    if max(len(cut.labels["predicted"]) for cut in cuts.values()) <= NAMED:
        figure.update_xaxes(tickmode="linear", dtick=1, tickfont={"size": 9})
    figure.update_yaxes(tickmode="linear", dtick=1)
    figure.update_yaxes(autorange="reversed")  # read like a table: both ways begin at the upper left
    return figure


def _chance(figure: go.Figure, chance: float) -> None:
    figure.add_hline(y=chance, line={"color": INK, "width": 1, "dash": "longdashdot"})
    figure.add_annotation(
        x=0,
        xref="paper",
        y=chance,
        text=f"chance {number(chance)}",
        showarrow=False,
        xanchor="left",
        yanchor="bottom",
        font={"size": 11},
        bgcolor="rgba(255,255,255,0.8)",
    )
