"""Token by expert: where the router sends the tokens of one text, before and after, on one scale.

Read it as: a row is a token, downwards as it is read, a column an expert; the colour is the router's probability, a
white dot marks the experts the token is sent to. In the difference ▲ is chosen only after, ▼ only before. Of one text
no noise is known, so no cell is grey. A dashed line parts the prompt from the answer.
Does not show: what an expert does with a token, nor other layers.
"""

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from workbench.expert_tokens import RoutingGrid, moved
from workbench.figures_style import INK, describes, diverging_scale, finish, number, plain

NAMES = {"base": "before", "checkpoint": "after"}
"""Role -> name of its panel; any other role has its own."""

CHANGE = "after − before"
"""Name of the panel of differences."""

ROW, AROUND, LEAST = 19, 58, 150
"""Pixels of a token, of what stands above and below a row of panels, and of the lowest panel."""

SIDE_BY_SIDE, PAIRED = 16, 40
"""Experts up to which all panels, and up to which two panels, stand beside each other."""

EXTRA: tuple[str, ...] = ("probability", "weight", "chosen")
"""Numbers of a cell."""


def routing_figure(grids: Mapping[str, RoutingGrid], title: str, expert: str = "") -> go.Figure:
    """Panels of one or more models over one text at one layer, and the difference of base and checkpoint.

    Args:
        grids: role -> grid, at least one.
        title: of the picture.
        expert: the expert whose column is framed; none when empty.
    """
    panels: dict[str, RoutingGrid | None] = {NAMES.get(role, role): grid for role, grid in grids.items()}
    pair = (grids["base"], grids["checkpoint"]) if {"base", "checkpoint"} <= set(grids) else None
    lost = None if pair is None else moved(*pair)
    if lost is not None:
        names = list(panels)
        names.insert(names.index("after") + 1, CHANGE)
        panels = {name: panels.get(name) for name in names}
    columns, rows = _layout(len(panels), max(len(grid.experts) for grid in grids.values()))
    tall = max(LEAST, ROW * max(len(grid.tokens) for grid in grids.values()))
    figure = make_subplots(
        rows,
        columns,
        subplot_titles=[plain(name, 60) for name in panels],
        shared_yaxes=True,
        horizontal_spacing=0.02,
        vertical_spacing=min(0.4, AROUND / max(1, rows * (tall + AROUND))),
    )
    weights = not any(np.isfinite(grid.probability).any() for grid in grids.values())
    for i, (name, grid) in enumerate(panels.items()):
        place = (i // columns + 1, i % columns + 1)
        if grid is not None:
            _panel(figure, name, grid, weights, place)
        elif pair is not None:
            _change(figure, pair, weights, place)
        _lines(figure, grid or next(iter(grids.values())), expert, place)
    return _finished(figure, grids, (title, weights, rows * (tall + AROUND)), lost)


def _layout(panels: int, experts: int) -> tuple[int, int]:
    """Columns and rows of panels."""
    columns = panels if experts <= SIDE_BY_SIDE else min(panels, 2) if experts <= PAIRED else 1
    return columns, math.ceil(panels / columns)


def _shown(grid: RoutingGrid, weights: bool) -> np.ndarray:
    """What the colour is; a token adds nothing of an expert it is not sent to."""
    return np.nan_to_num(grid.weight) if weights else grid.probability


def _rows(grid: RoutingGrid) -> list[str]:
    """Tokens with their place before them, so that no two are alike."""
    return [plain(f"{i} {token}", 40) for i, token in enumerate(grid.tokens)]


def _panel(figure: go.Figure, name: str, grid: RoutingGrid, weights: bool, place: tuple[int, int]) -> None:
    shown, chosen = _shown(grid, weights), np.where(grid.chosen, "yes", "no").astype(object)
    if weights:
        extra, data = EXTRA[1:], [shown.astype(object), chosen]
    else:
        extra, data = EXTRA, [shown.astype(object), grid.weight.astype(object), chosen]
    figure.add_heatmap(
        z=shown,
        x=list(grid.experts),
        y=_rows(grid),
        coloraxis="coloraxis",
        xgap=1,
        ygap=1,
        customdata=np.stack(data, axis=-1),
        meta=describes(name, "", "expert", "token", extra),
        hovertemplate=f"%{{y}}, expert %{{x}}: {extra[0]} %{{customdata[0]:.3g}}<extra></extra>",
        row=place[0],
        col=place[1],
    )
    _dots(figure, grid, grid.chosen, "circle", place)


def _change(figure: go.Figure, pair: tuple[RoutingGrid, RoutingGrid], weights: bool, place: tuple[int, int]) -> None:
    before, after = pair
    change = _shown(after, weights) - _shown(before, weights)
    words = np.full(change.shape, "as before", dtype=object)
    words[after.chosen & ~before.chosen], words[before.chosen & ~after.chosen] = "chosen only after", "only before"
    unit = "weight" if weights else "probability"
    figure.add_heatmap(
        z=change,
        x=list(after.experts),
        y=_rows(after),
        coloraxis="coloraxis2",
        xgap=1,
        ygap=1,
        customdata=np.stack([change.astype(object), words], axis=-1),
        meta=describes(CHANGE, "", "expert", "token", (unit, "choice")),
        hovertemplate=f"%{{y}}, expert %{{x}}: {unit} %{{customdata[0]:+.3g}}, %{{customdata[1]}}<extra></extra>",
        row=place[0],
        col=place[1],
    )
    _dots(figure, after, after.chosen & ~before.chosen, "triangle-up", place)
    _dots(figure, after, before.chosen & ~after.chosen, "triangle-down", place)


def _dots(figure: go.Figure, grid: RoutingGrid, there: np.ndarray, symbol: str, place: tuple[int, int]) -> None:
    """Marks that stand out from any colour below them."""
    at, names = np.argwhere(there), _rows(grid)
    figure.add_scatter(
        x=[grid.experts[j] for _, j in at],
        y=[names[i] for i, _ in at],
        mode="markers",
        marker={"symbol": symbol, "size": 7, "color": "#ffffff", "line": {"width": 1.4, "color": INK}},
        showlegend=False,
        hoverinfo="skip",
        row=place[0],
        col=place[1],
    )


def _lines(figure: go.Figure, grid: RoutingGrid, expert: str, place: tuple[int, int]) -> None:
    row, col = place
    figure.update_xaxes(range=[-0.5, len(grid.experts) - 0.5], row=row, col=col)  # marks would add a margin
    figure.update_yaxes(range=[len(grid.tokens) - 0.5, -0.5], row=row, col=col)
    at = grid.experts.index(expert) if expert in grid.experts else None
    for color, width, dash in (("#ffffff", 4, "solid"), (INK, 1.6, "dash")):  # seen on dark cells and on light ones
        if 0 < grid.answer_start < len(grid.tokens):
            line = {"color": color, "width": width * 0.75, "dash": dash}
            figure.add_hline(y=grid.answer_start - 0.5, line=line, row=row, col=col)
        if at is not None:
            frame = {"color": color, "width": width}
            figure.add_vrect(x0=at - 0.5, x1=at + 0.5, line=frame, fillcolor="rgba(0,0,0,0)", row=row, col=col)


def _finished(
    figure: go.Figure, grids: Mapping[str, RoutingGrid], words: tuple[str, bool, int], lost: int | None
) -> go.Figure:
    title, weights, tall = words
    what = "routing weight" if weights else "router probability"
    figure.update_xaxes(type="category", showgrid=False, tickangle=0, title_text="expert", title_standoff=2)
    if max(len(grid.experts) for grid in grids.values()) <= SIDE_BY_SIDE:
        figure.update_xaxes(dtick=1)
    figure.update_yaxes(type="category", showgrid=False)
    told = "; ".join(f"{NAMES.get(role, role)}: {_busiest(grid)}" for role, grid in grids.items())
    choices = 0 if lost is None else int(grids["base"].chosen.sum())
    change = "" if lost is None else f" {lost} of {choices} choices are no longer made after."
    finish(
        figure, title, f"{title}, {what} of every expert (columns) for every token (rows). {told}.{change}", tall + 74
    )
    most = max(float(np.nanmax(_shown(grid, weights), initial=0.0)) for grid in grids.values()) or 1.0
    bar: dict[str, Any] = {"thickness": 12, "len": 1, "x": 1.01, "title": {"text": EXTRA[weights], "side": "right"}}
    figure.update_layout(
        coloraxis={"colorscale": "Cividis", "cmin": 0, "cmax": most, "colorbar": bar}, margin={"t": 74, "r": 84}
    )
    if lost is not None:
        change_of = _shown(grids["checkpoint"], weights) - _shown(grids["base"], weights)
        second = {**bar, "x": 1.12, "title": {"text": CHANGE, "side": "right"}}
        figure.update_layout(coloraxis2={**diverging_scale(change_of), "colorbar": second}, margin={"r": 180})
    return figure.update_annotations(font={"size": 12})


def _busiest(grid: RoutingGrid) -> str:
    """Which expert gets most tokens."""
    sent = grid.chosen.sum(axis=0)
    best = int(sent.argmax())
    return f"expert {grid.experts[best]} gets {number(float(sent[best]))} of {len(grid.tokens)} tokens, the most"
