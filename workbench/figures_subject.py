"""A bracket over the columns of a map that are the subject's tokens, in every panel.

Which columns they are is told by their labels (`workbench.remains.SUBJECT` stands in them).
Read it as: what lies under the bracket was corrupted; what stands right of it was not.
Does not show: where in a text the subject stands.
"""

from collections.abc import Sequence
from typing import Any

import plotly.graph_objects as go

from workbench.figures_click import panels_of
from workbench.figures_style import INK, alt_text
from workbench.remains import SUBJECT

ROOM = 22
"""Pixels the bracket takes above a panel; the panel's title moves up by as many."""

LOW, HIGH = 2, 7
"""Pixels above the panel of the bracket's ends and of its bar."""

WIDE = 0.45
"""How far it reaches from the middle of its outer columns."""


def subject_span(columns: Sequence[str]) -> tuple[int, int] | None:
    """First and last of the columns that are the subject's; None where none is, or others lie between."""
    own = [i for i, label in enumerate(columns) if SUBJECT in str(label)]
    return (own[0], own[-1]) if own and own[-1] - own[0] + 1 == len(own) else None


def mark_subject(figure: go.Figure) -> go.Figure:
    """Draw the bracket over every panel whose columns tell of a subject; without any the figure stays as it is."""
    found = [(series, span) for series in panels_of(figure) if (span := subject_span(list(series.x))) is not None]
    if not found:
        return figure
    tops = [figure.layout[(series.yaxis or "y").replace("y", "yaxis", 1)].domain[1] for series, _ in found]
    for title in figure.layout.annotations:
        if any(abs(title.y - top) < 1e-6 for top in tops):
            title.yshift = (title.yshift or 0) + ROOM
    for series, span in found:
        _bracket(figure, series, span)
    (first, last), names = found[0][1], list(found[0][0].x)
    told = f" The bracket marks the subject's tokens: {names[first]} to {names[last]}."
    layout: Any = figure.layout
    return figure.update_layout(
        margin={"t": (layout.margin.t or 0) + ROOM},
        height=(layout.height or 0) + ROOM,
        meta={**(layout.meta or {}), "alt": alt_text(figure) + told},
    )


def _bracket(figure: go.Figure, series: Any, span: tuple[int, int]) -> None:
    across, up = series.xaxis or "x", f"{series.yaxis or 'y'} domain"
    left, right = span[0] - WIDE, span[1] + WIDE
    figure.add_shape(
        type="path",
        path=f"M {left} {LOW} L {left} {HIGH} L {right} {HIGH} L {right} {LOW}",
        xref=across,
        yref=up,
        ysizemode="pixel",
        yanchor=1,
        line={"color": INK, "width": 1.5},
    )
    figure.add_annotation(
        x=(span[0] + span[1]) / 2,
        xref=across,
        y=1,
        yref=up,
        yshift=HIGH,
        text=SUBJECT,
        showarrow=False,
        yanchor="bottom",
        font={"size": 10, "color": INK},
    )
