"""The strip of all value vectors: layer by neuron, how far each moved, a strip a model on one scale.

Read it as: a bright cell is a vector that moved far, on a scale of powers of ten; a grey one has not moved at all, a
white one has no number. Triangles are the vectors that speak most for the concept in the base. Bright cells under
triangles in a grey strip: an edit aimed at them; strips as bright as the reference's: trained as far as training anew.
Does not show: all vectors of a wide model, only the furthest of each column; nor what a vector writes.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from workbench.figures_click import CELLS
from workbench.figures_maps import BAR_ROOM
from workbench.figures_style import INK, describes, finish, plain
from workbench.vector_strip import Strip

STILL = "#e6e9ec"
"""Grey of a vector that did not move; lighter than that of noise, which is the middle of the scale's colours."""

DECADES = 4
"""Powers of ten the scale of the strip spans at most; what is below is drawn as its lower end."""

ROW, BETWEEN, ABOVE, BELOW = 18, 40, 74, 58
"""Pixels of a row, between two strips, and round them."""

FOUND = "concept vectors"
"""What the marks on the strip are called."""


@dataclass(frozen=True)
class Marked:
    """What stands out in a picture of vectors."""

    chosen: str = ""
    """The vector with a ring or frame round it."""
    found: Sequence[str] = ()
    """Those that were found to speak for the concept, marked in the strip."""


def move_strips(strips: Mapping[str, Strip], marked: Marked | None = None, said: Sequence[str] = ()) -> go.Figure:
    """How far every value vector moved, layer by neuron, a strip a role, on one scale of powers of ten.

    Args:
        strips: role -> what `workbench.vector_strip.strip_of` cut.
        marked: what stands out.
        said: a clause a role for the alternative text, as `workbench.vector_strip.told` words it.
    """
    marked = marked or Marked()
    rows = [len(strip.rows) for strip in strips.values()]
    tall = [max(100, min(ROW * count, 440)) for count in rows]
    figure = make_subplots(
        len(strips),
        1,
        shared_xaxes=True,
        subplot_titles=[plain(role) for role in strips],
        row_heights=tall,
        vertical_spacing=BETWEEN / (sum(tall) + BETWEEN * (len(tall) - 1)),
    )
    scale = _scale([strip.values for strip in strips.values()])
    for row, (role, strip) in enumerate(strips.items(), start=1):
        _strip(figure, role, strip, row, scale["cmin"])
        _marks(figure, strip, marked, row)
    for row, (role, strip) in enumerate(strips.items(), start=1):
        _pressable(figure, role, strip, row, max(1, CELLS // sum(rows)))
        figure.update_yaxes(range=[-0.5, len(strip.rows) - 0.5], row=row, col=1)
    width, most = next((s.width, len(s.starts)) for s in strips.values())
    figure.update_xaxes(title_text="neuron" if width == 1 else f"first neuron of {width}", row=len(strips), col=1)
    figure.update_xaxes(showgrid=False, zeroline=False, range=[-width / 2, width * (most - 0.5)])
    figure.update_yaxes(type="category", showgrid=False, title_text="layer")
    figure.update_annotations(font={"size": 12})
    height = sum(tall) + BETWEEN * (len(tall) - 1) + ABOVE + BELOW
    finish(figure, "How far every value vector moved", _alt(said, width), height)
    return figure.update_layout(
        coloraxis=scale,
        margin={"t": ABOVE, "b": BELOW, "r": BAR_ROOM},
        hoverdistance=60,
        legend={"x": 1, "xanchor": "right", "y": 1.0, "yanchor": "bottom"},
    )


def _alt(said: Sequence[str], width: int) -> str:
    columns = f" Each column is the furthest of {width} neighbours." if width > 1 else ""
    return f"Change of every value vector, in lengths of the base's. {'; '.join(said)}.{columns}"


def _scale(every: Sequence[np.ndarray]) -> dict[str, Any]:
    """A colour axis in powers of ten: one to `DECADES` of them, from near the smallest move to the largest."""
    moved = np.concatenate([values[values > 0].reshape(-1) for values in every] or [np.zeros(0)])
    top, least = (float(np.log10(end)) for end in ((moved.max(), moved.min()) if moved.size else (1.0, 1.0)))
    low = max(min(float(np.floor(least)), top - 1), top - DECADES)
    whole = [float(power) for power in range(int(np.ceil(low)), int(np.floor(top)) + 1)]
    ticks = whole if len(whole) > 1 else [low, top]
    bar = {
        "title": {"text": "moved, in its lengths", "side": "right"},
        "thickness": 12,
        "len": 1,
        "tickvals": ticks,
        "ticktext": [f"{10.0**t:.2g}" for t in ticks],
    }
    return {"colorscale": "Cividis", "cmin": low, "cmax": top, "colorbar": bar}


def _strip(figure: go.Figure, role: str, strip: Strip, row: int, low: float) -> None:
    """One role's cells: in colour what moved, in grey what did not, white what was not read."""
    moved = strip.values > 0
    height = np.log10(np.where(moved, strip.values, 1.0))
    extra, parts = ["moved", "furthest neuron"], [strip.values, strip.neuron]
    if any(site.expert is not None for sites in strip.sites for site in sites):
        extra, parts = [*extra, "its expert"], [*parts, _experts(strip)]
    data = np.stack(parts, axis=-1).astype(np.float32)  # half the bytes to send, and exact for a neuron's number
    figure.add_heatmap(
        z=np.where(strip.values == 0, 1.0, np.nan).astype(np.float32),
        x=strip.starts,
        y=strip.rows,
        colorscale=[[0, STILL], [1, STILL]],
        showscale=False,
        hoverinfo="skip",
        row=row,
        col=1,
    )
    figure.add_heatmap(
        z=np.where(moved, np.maximum(height, low), np.nan).astype(np.float32),
        x=strip.starts,
        y=strip.rows,
        coloraxis="coloraxis",
        customdata=data,
        meta=describes(role, "", "first neuron", "layer", extra),
        hoverongaps=False,
        hoverinfo="skip",
        row=row,
        col=1,
    )


def _experts(strip: Strip) -> np.ndarray:
    """Number of the expert each cell's vector lies in; NaN in a dense MLP."""
    numbers = [[site.expert for site in sites] for sites in strip.sites]
    found = [[np.nan if n is None else float(n) for n in known] for known in numbers]
    return np.stack([np.array(known)[places] for known, places in zip(found, strip.place, strict=True)])


def _marks(figure: go.Figure, strip: Strip, marked: Marked, row: int) -> None:
    """Found vectors as small rings, the chosen one in a frame."""
    cells = [cell for cell in map(strip.cell_of, marked.found) if cell is not None]
    if cells:
        figure.add_scatter(
            x=[strip.starts[j] for _, j in cells],
            y=[strip.rows[i] for i, _ in cells],
            mode="markers",
            name=FOUND,
            legendgroup=FOUND,
            showlegend=row == 1,
            marker={"symbol": "triangle-down", "size": 8, "color": "#ffffff", "line": {"width": 1.2, "color": INK}},
            meta=["found"],
            hoverinfo="skip",
            row=row,
            col=1,
        )
    at = strip.cell_of(marked.chosen) if marked.chosen else None
    if at is not None:
        figure.add_scatter(  # a light frame round the dark one, so that it is seen on dark cells too
            x=[strip.starts[at[1]]] * 2,
            y=[strip.rows[at[0]]] * 2,
            mode="markers",
            marker={"symbol": "square-open", "size": [20, 16], "color": ["#ffffff", INK], "line": {"width": 2.5}},
            meta=["frame"],
            showlegend=False,
            hoverinfo="skip",
            row=row,
            col=1,
        )


def _pressable(figure: go.Figure, role: str, strip: Strip, row: int, room: int) -> None:
    """Unseen marks that take clicks; where columns outnumber them, one stands for the furthest of its neighbours."""
    count = len(strip.starts)
    step = -(-count // room)
    cells = []
    for i in range(len(strip.rows)):
        for start in range(0, count, step):
            part = strip.values[i, start : start + step]
            if np.isfinite(part).any():
                cells.append((i, start + len(part) // 2, start + int(np.nanargmax(part))))
    figure.add_scatter(
        x=[strip.starts[middle] for _, middle, _ in cells],
        y=[strip.rows[i] for i, _, _ in cells],
        mode="markers",
        marker={"symbol": "square", "size": 10, "opacity": 0},
        ids=[strip.vector_at(i, best) for i, _, best in cells],
        customdata=[[strip.vector_at(i, best), float(strip.values[i, best])] for i, _, best in cells],
        meta=["cell", role],
        showlegend=False,
        hovertemplate="%{customdata[0]}<br>moved by %{customdata[1]:.3g} of its length<extra>"
        + plain(role)
        + "</extra>",
        row=row,
        col=1,
    )
