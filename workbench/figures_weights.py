"""Further pictures of a `Comparison`: how concentrated a change is, and a map of any one number of it.

Read it as: an energy curve that is near 1 after a few directions is a change of low rank; the grey diagonal of a change
spread evenly over all of them lies far below. In the maps white is a tensor that does not differ or has no such number.
Does not show: which directions they are, nor their angle to the base's: a comparison keeps singular values, no vectors.
"""

from collections.abc import Sequence

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from workbench.comparison import Comparison
from workbench.comparison_rows import DIFFERENT
from workbench.figures_compare import LOOKS, change_panels, short_name
from workbench.figures_maps import BAR_ROOM
from workbench.figures_style import describes, finish, number, plain

STATS = {
    "share_changed": "share of entries changed",
    "rank": "rank of the change",
    "stable_rank": "stable rank of the change",
    "top_share": "share of the squared change in its first direction",
}
"""Column of a comparison -> what it is, for the map."""


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
    """One number of every changed part, layer by matrix; of a cell with several tensors the largest.

    Args:
        comparison: of two checkpoints.
        stat: a key of `STATS`.
    """
    panel = change_panels(comparison.table[comparison.table["entries_changed"].notna()])[0]
    shown = np.full((len(panel.rows), len(panel.columns)), np.nan)
    for (up, right), cell in panel.cells.items():
        shown[panel.rows.index(up), panel.columns.index(right)] = _largest(cell, stat)
    best = np.nanmax(shown) if np.isfinite(shown).any() else None
    figure = go.Figure(
        go.Heatmap(
            z=shown,
            x=[plain(column, 40) for column in panel.columns],
            y=panel.rows,
            colorscale="Viridis",
            zmin=0,
            xgap=1,
            ygap=1,
            hoverongaps=False,
            customdata=shown[..., None],
            colorbar={"title": {"text": plain(STATS[stat], 44), "side": "right"}, "thickness": 12},
            meta=describes(panel.title, "", panel.across, "layer", (stat,)),
            hovertemplate=f"layer %{{y}}, %{{x}}: {STATS[stat]} %{{z:.3g}}<extra></extra>",
        )
    )
    figure.update_xaxes(type="category", showgrid=False, tickangle=-40)
    figure.update_yaxes(type="category", showgrid=False, title_text="layer")
    known = f"from {number(float(np.nanmin(shown)))} to {number(float(best))}" if best is not None else "nothing known"
    title = STATS[stat][:1].upper() + STATS[stat][1:]
    finish(figure, title, f"{title}, layer by matrix: {known}.", max(260, 130 + 26 * len(panel.rows)))
    return figure.update_layout(margin={"r": BAR_ROOM})


def _largest(cell: pd.DataFrame, stat: str) -> float:
    found: Sequence[float] = cell[cell["status"].isin(DIFFERENT)][stat].dropna().astype(float).tolist()
    return max(found, default=float("nan"))
