"""Heat maps over layers: causal traces (layer by token role), experts and heads (layer by number), and comparisons.

Read it as: blue is up, red is down, on one symmetric scale for all panels of a picture. In the difference, grey with
`≈` is inside the noise floor (less than two standard errors over facts); a small cross is a cell nothing was read at.
A bracket marks the columns that are the subject's tokens.
Does not show: single facts (it draws means), nor where knowledge lives until an edit there has moved the answer.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from workbench.figures_style import (
    MUTED,
    NOISE,
    color_scale,
    describes,
    diverging_scale,
    finish,
    number,
    plain,
)
from workbench.figures_subject import mark_subject, subject_span
from workbench.map_grids import Grid, difference_of, grids_of, require_alike
from workbench.trace import Trace

NOISE_FLOOR = 2.0
"""Standard errors a difference must reach to be drawn in colour."""

BAR_ROOM = 98
"""Pixels for the colour bar. A browser draws the whole picture a second time when its parts need more room."""

MARKED_CELLS = 600
"""Panels with more cells get no `≈` in each grey one; it would only be dirt."""


def map_figure(trace: Trace, title: str = "") -> go.Figure:
    """One model's map: a panel a site part, layers upwards."""
    grids = grids_of(trace)
    figure = make_subplots(
        1, len(grids), subplot_titles=[plain(grid.part) for grid in grids], shared_yaxes=True, horizontal_spacing=0.03
    )
    for column, grid in enumerate(grids, start=1):
        _panel(figure, grid, grid.part, grid.mean, (1, column))
    scale = color_scale(np.concatenate([grid.mean.reshape(-1) for grid in grids]))
    best = max(grids, key=lambda grid: np.nan_to_num(grid.mean, nan=-np.inf).max())
    alt = f"{title or trace.name} ({trace.units}), mean over {_facts(grids[0])}: {_peak(best)}.{_unread(grids)}"
    tallest = max(grids, key=lambda grid: len(grid.rows))
    return _finish(figure, [tallest], scale, (title or trace.name, trace.units, alt))


def compare_maps(
    before: Trace,
    after: Trace,
    reference: Trace | None = None,
    title: str = "",
    greyed: bool = True,
    less: Mapping[str, Trace] | None = None,
) -> go.Figure:
    """The same map of two or three models, and the difference after minus before, on one scale.

    Args:
        before: the base model.
        after: the audited checkpoint.
        reference: the model retrained without the concept, if there is one.
        title: what was read; the trace's name when empty.
        greyed: whether cells of the difference inside the noise floor are grey. Of a single fact no floor is known, so
            all would be; False draws them in colour, and the words of the picture say that nothing is known of noise.
        less: the same maps of other facts by panel (`before`, `after`, `reference`), whose means are taken off.

    Raises:
        BadInput: when the traces do not have the same sites and columns.
    """
    sides = {"before": grids_of(before), "after": grids_of(after)}
    if reference is not None:
        sides["reference"] = grids_of(reference)
    off = {name: grids_of((less or {})[name]) for name in sides if less}
    require_alike(before.name, [*sides.values(), *off.values()])
    for name, others in off.items():
        sides[name] = tuple(replace(one, less=other) for one, other in zip(sides[name], others, strict=True))
    names = ["before", "after", "after − before", *(["reference"] if reference is not None else [])]
    parts = [grid.part for grid in sides["before"]]
    figure = make_subplots(
        len(parts),
        len(names),
        shared_xaxes=True,
        shared_yaxes=True,
        horizontal_spacing=0.025,
        vertical_spacing=(0.1 if subject_span(sides["before"][0].columns) is None else 0.17) / len(parts),
        subplot_titles=[f"{part} · {name}" if part else name for part in parts for name in names],
    )
    paired = before.labels.get("fact") == after.labels.get("fact")
    paired = paired and (not less or less["before"].labels.get("fact") == less["after"].labels.get("fact"))
    inside = total = 0
    for row in range(len(parts)):
        for name, grids in sides.items():
            column = names.index(name) + 1
            _panel(figure, grids[row], f"{grids[row].part} {name}".strip(), grids[row].mean, (row + 1, column))
        noise = _difference(figure, (sides["before"][row], sides["after"][row]), paired, (row + 1, 3), greyed)
        inside, total = inside + int(noise.sum()), total + noise.size
    drawn = np.concatenate([panel.reshape(-1) for panel in _panels(sides)])
    tops = "; ".join(f"{name}: {_peak(max(grids, key=_top))}" for name, grids in sides.items())
    floor = f"In the difference {inside} of {total} cells lie inside the noise floor and are grey."
    alt = (
        f"{title or before.name} ({before.units}), mean over {_facts(sides['after'][0])}. {tops}. "
        f"{floor if greyed else 'No noise floor is known here, so no cell of the difference is grey.'}"
        f"{_unread([grid for grids in sides.values() for grid in grids])}"
    )
    return _finish(figure, sides["before"], diverging_scale(drawn), (title or before.name, before.units, alt))


def _difference(
    figure: go.Figure, pair: tuple[Grid, Grid], paired: bool, place: tuple[int, int], greyed: bool
) -> np.ndarray:
    """Draw the difference panel; returns which cells are inside the noise floor."""
    before, after = pair
    change, error = difference_of(before, after, paired)
    # One fact gives no standard error, so nothing can be told from noise: such cells are grey too.
    noise = np.isfinite(change) & ~(np.abs(change) >= NOISE_FLOOR * error) & greyed
    _panel(figure, after, f"{after.part} after − before".strip(), change, place, (error, noise))
    row, column = place
    # Browsers lay out a text for every cell, also an empty one, so large panels get none at all.
    few = noise.size <= MARKED_CELLS
    marks = {"text": np.where(noise, "≈", ""), "texttemplate": "%{text}", "textfont": {"color": MUTED, "size": 10}}
    figure.add_heatmap(
        z=np.where(noise, 1.0, np.nan),
        x=_labels(after.columns),
        y=_labels(after.rows),
        colorscale=[[0, NOISE], [1, NOISE]],
        showscale=False,
        hoverinfo="skip",
        xgap=1,
        ygap=1,
        **(marks if few else {}),
        row=row,
        col=column,
    )
    return np.asarray(noise)


def _panel(
    figure: go.Figure,
    grid: Grid,
    series: str,
    values: np.ndarray,
    place: tuple[int, int],
    noise: tuple[np.ndarray, np.ndarray] | None = None,
) -> None:
    """A heat map; with `noise` (standard errors, which cells are noise) noisy cells stay uncoloured."""
    extra = ["value"] if noise is None else ["value", "standard error", "inside noise"]
    data = np.stack([values, *(array.astype(float) for array in noise or ())], axis=-1)
    shown = values if noise is None else np.where(noise[1], np.nan, values)
    hover = "layer %{y}, %{x}: %{customdata[0]:.3g}" + ("" if noise is None else " ± %{customdata[1]:.2g}")
    row, column = place
    figure.add_heatmap(
        z=shown,
        x=_labels(grid.columns),
        y=_labels(grid.rows),
        coloraxis="coloraxis",
        xgap=1,
        ygap=1,
        customdata=data,
        meta=describes(series, "", grid.across, "layer", extra),
        hoverongaps=True,
        hovertemplate=f"{hover}<extra></extra>",
        row=row,
        col=column,
    )
    unread = np.argwhere(~np.isfinite(values))
    if len(unread):
        across, up = _labels(grid.columns), _labels(grid.rows)
        figure.add_scatter(
            x=[across[j] for _, j in unread],
            y=[up[i] for i, _ in unread],
            mode="markers",
            marker={"symbol": "x-thin", "size": 6, "line": {"width": 1, "color": MUTED}},
            hovertemplate="layer %{y}, %{x}: not measured<extra></extra>",
            showlegend=False,
            row=row,
            col=column,
        )


def _finish(
    figure: go.Figure, stacked: Sequence[Grid], scale: dict[str, object], words: tuple[str, str, str]
) -> go.Figure:
    """Axes, colour bar and height; `stacked` are the panels that lie above each other."""
    name, units, alt = words
    figure.update_xaxes(type="category", showgrid=False)
    figure.update_yaxes(type="category", showgrid=False)
    figure.update_yaxes(title_text="layer", col=1)
    tall = sum(max(150, min(420, 60 + 20 * len(grid.rows))) for grid in stacked)
    finish(figure, name, alt, 110 + tall + 60)
    bar = {"title": {"text": plain(units, 40), "side": "right"}, "thickness": 12, "len": 1}
    figure.update_layout(coloraxis={**scale, "colorbar": bar}, margin={"t": 74, "r": BAR_ROOM})
    return mark_subject(figure.update_annotations(font={"size": 12}))


def upright(figure: go.Figure) -> go.Figure:
    """The same with the columns' labels standing on end, for many or long ones, and room for them."""
    drawn: Sequence[Any] = figure.data
    longest = max((len(str(label)) for series in drawn if series.type == "heatmap" for label in series.x), default=0)
    return figure.update_xaxes(tickangle=-90).update_layout(margin={"b": 20 + math.ceil(6.8 * longest)})


def _labels(labels: Sequence[str]) -> list[str]:
    return [plain(label, 40) for label in labels]


def _panels(sides: dict[str, tuple[Grid, ...]]) -> list[np.ndarray]:
    found = [grid.mean for grids in sides.values() for grid in grids]
    return found + [a.mean - b.mean for b, a in zip(sides["before"], sides["after"], strict=True)]


def _top(grid: Grid) -> float:
    return float(np.nan_to_num(grid.mean, nan=-np.inf).max())


def _facts(grid: Grid) -> str:
    if grid.pooled:
        return "all that was read"
    count = int(np.isfinite(grid.values).any(axis=(0, 1)).sum())
    off = "" if grid.less is None else f" less that over {_facts(grid.less)}"
    return f"{count} fact{'s' if count != 1 else ''}{off}"


def _unread(grids: Sequence[Grid]) -> str:
    count = sum(int((~np.isfinite(grid.mean)).sum()) for grid in grids)
    return f" {count} cells were not measured and bear a cross." if count else ""


def _peak(grid: Grid) -> str:
    if not np.isfinite(grid.mean).any():
        return "nothing was read"
    row, column = np.unravel_index(int(np.nanargmax(grid.mean)), grid.mean.shape)
    return (
        f"highest {number(float(grid.mean[row, column]))} at layer {grid.rows[row]}, "
        f"{grid.across} {grid.columns[column]}" + (f" of {grid.part}" if grid.part != grid.across else "")
    )
