"""Heat maps whose cells can be clicked: invisible squares laid over them, and a frame round the chosen cell.

Apps that show plotly figures report clicks on marks, not on heat-map cells. Draw the map as ever, then hand it here.

Read it as: the frame is the chosen cell, in every panel.
Does not show: more than the figure did; a map with more cells than `CELLS` is clickable in one panel only.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import plotly.graph_objects as go

from workbench.figures_style import INK, plain

CELLS = 2500
"""Cells with a mark of their own in one figure; a browser draws each mark as a shape of its own."""

UNREAD = "layer %{y}, %{x}: not measured<extra></extra>"
"""What a cell says that nothing was read at."""

MARK = "cell"
"""First word of the `meta` of the marks, by which they are found again."""


@dataclass(frozen=True)
class CellAt:
    """A place in a map."""

    row: str
    """Label of the row, usually a layer."""
    column: str
    """Label of the column."""


def panels_of(figure: go.Figure) -> list[Any]:
    """The heat maps that hold numbers."""
    drawn: Sequence[Any] = figure.data
    return [series for series in drawn if series.type == "heatmap" and isinstance(series.meta, Mapping)]


def clickable(figure: go.Figure, chosen: CellAt | None = None, panel: str = "") -> go.Figure:
    """The same figure with a mark on every cell and a frame round the chosen one.

    Args:
        figure: one of `workbench.figures_maps`; it is changed.
        chosen: the cell to frame.
        panel: the end of the title of the panel that is clickable where not all can be (`after`); the first if empty.
    """
    panels = panels_of(figure)
    every = sum(len(series.x) * len(series.y) for series in panels) <= CELLS
    at = next((i for i, series in enumerate(panels) if series.meta["panel"].endswith(panel)), 0)
    for series in figure.data:  # a cross on an unread cell would take the click that is meant for the cell
        if series.type == "scatter" and series.marker.symbol == "x-thin":
            series.hoverinfo, series.hovertemplate = "skip", None
    for number, series in enumerate(panels):
        if chosen is not None:
            _frame(figure, series, chosen)
        if every or number == at:
            _marks(figure, series)
    return figure.update_layout(hoverdistance=60, clickmode="event+select", dragmode=False)


def clicked(figure: go.Figure, point: Mapping[str, Any]) -> CellAt | None:
    """The cell an app says was clicked.

    Args:
        figure: made by `clickable`.
        point: what the app reports: `curve_number` and `point_index`.
    """
    series, index = _pressed(figure, point)
    if series is None or not isinstance(series.meta, list | tuple) or series.meta[0] != MARK:
        return None
    return CellAt(str(series.y[index]), str(series.x[index])) if index < len(series.x) else None


def selectable(figure: go.Figure) -> go.Figure:
    """The same figure with clicks on the marks of every series that has `ids`; a click dims nothing.

    Args:
        figure: it is changed.
    """
    every: Sequence[Any] = figure.data
    for series in every:
        if series.ids is not None:
            kept = {"marker": {"opacity": 1.0 if series.marker.opacity is None else series.marker.opacity}}
            series.selected, series.unselected = kept, kept
    return figure.update_layout(clickmode="event+select", dragmode=False)


def clicked_id(figure: go.Figure, point: Mapping[str, Any]) -> str | None:
    """What the mark stands for that an app says was clicked; None for a series without `ids`.

    Args:
        figure: made by `selectable`.
        point: what the app reports: `curve_number` and `point_index`.
    """
    series, index = _pressed(figure, point)
    ids = None if series is None else series.ids
    return str(ids[index]) if ids is not None and index < len(ids) else None


def _pressed(figure: go.Figure, point: Mapping[str, Any]) -> tuple[Any, int]:
    """The series and place of a mark that an app reports; no series where the report fits nothing in the figure."""
    number, index = point.get("curve_number"), point.get("point_index")
    drawn: Sequence[Any] = figure.data
    if not isinstance(number, int) or not isinstance(index, int) or not 0 <= number < len(drawn) or index < 0:
        return None, 0
    return drawn[number], index


def _marks(figure: go.Figure, series: Any) -> None:
    rows, columns = len(series.y), len(series.x)
    data = np.asarray(series.customdata).reshape(rows * columns, -1)
    read = np.isfinite(data[:, 0].astype(float))
    told = series.hovertemplate
    template = told if read.all() else [told if one else UNREAD for one in read]
    figure.add_scatter(
        x=np.tile(np.asarray(series.x, dtype=object), rows),
        y=np.repeat(np.asarray(series.y, dtype=object), columns),
        xaxis=series.xaxis,
        yaxis=series.yaxis,
        mode="markers",
        marker={"symbol": "square", "size": 14 if rows * columns <= 400 else 8, "opacity": 0},
        selected={"marker": {"opacity": 0}},
        unselected={"marker": {"opacity": 0}},
        customdata=data[:, :2],
        hovertext=None if series.hovertext is None else np.asarray(series.hovertext, dtype=object).reshape(-1),
        meta=[MARK, series.meta["panel"]],
        showlegend=False,
        hovertemplate=template,
    )
    series.hoverinfo, series.hovertemplate, series.hovertext = "skip", None, None


def _frame(figure: go.Figure, series: Any, chosen: CellAt) -> None:
    row, column = plain(chosen.row, 40), plain(chosen.column, 40)
    if row not in series.y or column not in series.x:
        return
    figure.add_scatter(  # a light frame round the dark one, so that it is seen on dark cells too
        x=[column, column],
        y=[row, row],
        xaxis=series.xaxis,
        yaxis=series.yaxis,
        mode="markers",
        marker={"symbol": "square-open", "size": [20, 16], "color": ["#ffffff", INK], "line": {"width": 2.5}},
        meta=["frame"],
        showlegend=False,
        hoverinfo="skip",
    )
