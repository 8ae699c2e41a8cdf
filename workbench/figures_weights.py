"""Further pictures of a `Comparison`: how concentrated a change is, and a map of any one number of it.

Read it as: an energy curve that is near 1 after a few directions is a change of low rank; the grey diagonal of a change
spread evenly over all of them lies far below. In the maps white is a tensor that does not differ or has no such number;
in the maps of overlap, grey with `≈` is what random directions give too.
Does not show: which directions they are (`workbench.figures_overlap` holds one tensor's against the base's).
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import pandas as pd
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from workbench.comparison import Comparison
from workbench.comparison_rows import DIFFERENT
from workbench.figures_compare import LOOKS, MARKED_CELLS, Panel, change_panels, short_name
from workbench.figures_maps import BAR_ROOM
from workbench.figures_overlap import Side, chance_of
from workbench.figures_style import MUTED, NOISE, describes, finish, number, plain

STATS = {
    "share_changed": "share of entries changed",
    "rank": "rank of the change",
    "stable_rank": "stable rank of the change",
    "top_share": "share of the squared change in its first direction",
    "left_overlap": "overlap with the base's leading left directions",
    "right_overlap": "overlap with the base's leading right directions",
}
"""Column of a comparison -> what it is, for the map."""

SHORT = {
    "share_changed": "entries changed",
    "rank": "rank",
    "stable_rank": "stable rank",
    "top_share": "share of the first direction",
    "left_overlap": "overlap, left",
    "right_overlap": "overlap, right",
}
"""The same in a few words, for buttons and colour bars."""

SHARES = ("share_changed", "top_share")
"""Those whose scale ends at 1."""

OVERLAPS: dict[str, Side] = {"left_overlap": "left", "right_overlap": "right"}
"""Those that have a value by chance -> the side they are of."""

NOISE_FLOOR = 2.0
"""Standard deviations of random directions that an overlap must differ from chance to be drawn in colour."""


def energies(comparison: Comparison, k: int = 8) -> go.Figure:
    """Share of the squared change in the first r directions, of the k most changed matrices."""
    changed = comparison.changed
    held = changed[changed["singular_values"].notna() & (changed["change_norm"] > 0)].head(min(k, len(LOOKS)))
    figure, said = go.Figure(), []
    for row, look in zip(held.to_dict("records"), LOOKS, strict=False):
        values = np.square(np.asarray(row["singular_values"], dtype=float))
        share = np.minimum(np.cumsum(values) / float(row["change_norm"]) ** 2, 1.0)
        name = short_name(row)
        figure.add_scatter(
            x=np.arange(1, len(share) + 1),
            y=share,
            name=plain(name, 44),
            mode="lines+markers",
            line={"color": look.color, "dash": look.dash},
            marker={"symbol": look.marker, "size": 7},
            meta=describes("", name, "directions", "share of the squared change"),
            hovertemplate=f"{plain(name)}<br>first %{{x}} directions: %{{y:.3g}}<extra></extra>",
        )
        said.append(f"{name} {number(float(share[0]))} in the first, {number(float(share[-1]))} in {len(share)}")
    figure.update_xaxes(title_text="directions, strongest first", rangemode="tozero")
    figure.update_yaxes(title_text="share of the squared change", range=[0, 1.03])
    alt = f"Energy of the change by directions kept: {'; '.join(said) or 'no matrix changed'}."
    finish(figure, "Energy in the first directions", alt, 400)
    return figure.update_layout(
        showlegend=True, legend={"orientation": "v", "x": 1.02, "xanchor": "left", "y": 1, "yanchor": "top"}
    )


def stat_map(comparison: Comparison, stat: str) -> go.Figure:
    """One number of every changed part: layer by matrix, and below it layer by expert where there are experts.

    Of a cell with several tensors it is the largest; of an overlap, which has a chance of its own in each, that of the
    tensor that changed most.

    Args:
        comparison: of two checkpoints.
        stat: a key of `STATS`.
    """
    panels = change_panels(comparison.table[comparison.table["entries_changed"].notna()])
    cells = [{at: cell_number(cell, stat) for at, cell in panel.cells.items()} for panel in panels]
    heights = [max(150, min(420, 60 + 20 * len(panel.rows))) for panel in panels]
    gap = min(0.35, 150 / (sum(heights) + 150))
    titles = [plain(panel.title) for panel in panels] if len(panels) > 1 else None
    figure = make_subplots(len(panels), 1, row_heights=heights, vertical_spacing=gap, subplot_titles=titles)
    for place, (panel, found) in enumerate(zip(panels, cells, strict=True), start=1):
        _draw(figure, panel, found, stat, place)
    figure.update_xaxes(type="category", showgrid=False)
    figure.update_xaxes(tickangle=-40, row=1, col=1)
    if len(panels) > 1:
        figure.update_xaxes(title_text="expert", row=2, col=1)
    figure.update_yaxes(type="category", showgrid=False, title_text="layer")
    title = STATS[stat][:1].upper() + STATS[stat][1:]
    finish(figure, title, f"{title}, layer by matrix: {_range(cells[0], stat)}.", sum(heights) + 150 * len(panels) + 70)
    bar = {"title": {"text": SHORT[stat], "side": "right"}, "thickness": 12}
    every = [cell.value for found in cells for cell in found.values() if np.isfinite(cell.value)]
    top = 1.0 if stat in SHARES else max(every, default=0.0) or 1.0
    axis = {"colorscale": "Viridis", "cmin": 0, "cmax": top, "colorbar": bar}
    return figure.update_layout(coloraxis=axis, margin={"r": BAR_ROOM}).update_annotations(font={"size": 12})


@dataclass(frozen=True)
class CellNumber:
    """One number of a cell; NaN where it has none."""

    value: float
    """The number."""
    chance: float = float("nan")
    """What random directions give, of an overlap."""
    noise: bool = False
    """Whether an overlap is no further from chance than two standard deviations of random directions."""


def cell_number(cell: pd.DataFrame, stat: str) -> CellNumber:
    """A number of the tensors in one cell, as `stat_map` says."""
    rows = cell[cell["status"].isin(DIFFERENT)].dropna(subset=[stat])
    if rows.empty:
        return CellNumber(float("nan"))
    if stat not in OVERLAPS:
        return CellNumber(float(rows[stat].astype(float).max()))
    row = rows.iloc[int(rows["change_norm"].astype(float).argmax())].to_dict()
    mean, spread = chance_of(row, OVERLAPS[stat])
    value = float(row[stat])
    return CellNumber(value, mean, abs(value - mean) <= NOISE_FLOOR * spread)


def _draw(figure: go.Figure, panel: Panel, found: Mapping[tuple[str, str], CellNumber], stat: str, place: int) -> None:
    shape = (len(panel.rows), len(panel.columns))
    numbers = np.full((*shape, 3), np.nan)
    noise = np.zeros(shape, dtype=bool)
    for (up, right), cell in found.items():
        at = panel.rows.index(up), panel.columns.index(right)
        numbers[at] = cell.value, cell.chance, cell.value / cell.chance
        noise[at] = cell.noise
    overlap = stat in OVERLAPS
    told = f"layer %{{y}}, {panel.across} %{{x}}: {STATS[stat]} %{{customdata[0]:.3g}}"
    more = " (chance %{customdata[1]:.2g})" if overlap else ""
    shared = {"x": [plain(c, 40) for c in panel.columns], "y": panel.rows, "xgap": 1, "ygap": 1}
    figure.add_heatmap(
        z=np.where(noise, np.nan, numbers[..., 0]),
        coloraxis="coloraxis",
        hoverongaps=False,
        customdata=numbers if overlap else numbers[..., :1],
        meta=describes(panel.title, "", panel.across, "layer", (stat, "chance", "times chance")[: 3 if overlap else 1]),
        hovertemplate=f"{told}{more}<extra></extra>",
        row=place,
        col=1,
        **shared,
    )
    if noise.any():
        figure.add_heatmap(
            z=np.where(noise, 1.0, np.nan),
            colorscale=[[0, NOISE], [1, NOISE]],
            showscale=False,
            hoverinfo="skip",
            text=np.where(noise & (noise.size <= MARKED_CELLS), "≈", ""),
            texttemplate="%{text}",
            textfont={"color": MUTED, "size": 11},
            row=place,
            col=1,
            **shared,
        )


def _range(found: Mapping[tuple[str, str], CellNumber], stat: str) -> str:
    """Smallest and largest in words, and how many lie where chance puts them."""
    known = [cell.value for cell in found.values() if np.isfinite(cell.value)]
    if not known:
        return "nothing known"
    told = f"from {number(min(known))} to {number(max(known))}"
    if stat not in OVERLAPS:
        return told
    grey = sum(cell.noise for cell in found.values())
    return f"{told}; {grey} of {len(known)} cells are no further from chance than random directions and are grey"
