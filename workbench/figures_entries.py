"""Histogram of the single entries of a change, beside the base's own entries for scale.

Read it as: sizes run outwards from zero by decades, in standard deviations of the base's entries, and counts are on a
logarithmic axis. The bar at zero counts entries that did not change. A change of few places has a high bar there and
some counts far out; training is a bell of small sizes with an empty middle. Bins: `workbench.entry_bins`.
Does not show: where the entries lie, nor whether large ones lie together (the rank and the rows changed say).
"""

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import plotly.graph_objects as go

from workbench.comparison_words import percent
from workbench.entry_bins import EDGES, SIZES, ZERO, bin_words
from workbench.figures_compare import short_name
from workbench.figures_style import ROLE_LOOKS, describes, finish, number


def entries_histogram(row: Mapping[Any, Any]) -> go.Figure:
    """Counts of the entries of one tensor's change and of its base.

    Args:
        row: of `Comparison.table`, with counts.
    """
    change, base = (np.asarray(row[f"{name}_counts"], dtype=int) for name in ("change", "base"))
    words = bin_words()
    figure = go.Figure()
    look, own = ROLE_LOOKS["checkpoint"], ROLE_LOOKS["base"]
    place = np.arange(len(change)) - ZERO
    meta = ("size", "entries", ("size in standard deviations",))
    figure.add_bar(
        x=place,
        y=np.where(change > 0, change, np.nan),
        name="change",
        width=0.9,
        marker={"color": look.color, "opacity": 0.85},
        customdata=[[word] for word in words],
        meta=describes("", "change", *meta),
        hovertemplate="change of %{customdata[0]} σ: %{y:,} entries<extra></extra>",
    )
    figure.add_scatter(
        x=place,
        y=np.where(base > 0, base, np.nan),
        name="base's own entries",
        mode="lines+markers",
        line={"color": own.color, "dash": own.dash, "shape": "hvh", "width": 1.5},
        marker={"symbol": own.marker, "size": 4},
        customdata=[[word] for word in words],
        meta=describes("", "base", *meta),
        hovertemplate="base's entries of %{customdata[0]} σ: %{y:,}<extra></extra>",
    )
    _axes(figure, max(int(change.max()), int(base.max())))
    total, still = int(change.sum()), int(change[ZERO])
    moved = np.abs(place[change > 0])
    far = int(moved.max()) if len(moved) else 0
    alt = (
        f"Entries of the change of {short_name(row)} by size: {percent(still / total if total else None)} of {total:,} "
        f"did not change, the largest changes are {_size_words(far)} standard deviations of the base's entries "
        f"(σ = {number(float(row['base_std']))})."
    )
    finish(figure, f"Single entries: {short_name(row)}", alt, 380)
    return figure.update_layout(showlegend=True, bargap=0)


def _size_words(place: int) -> str:
    return bin_words()[ZERO + place] if place else "0"


def _axes(figure: go.Figure, most: int) -> None:
    """Decades outwards from zero on both sides."""
    # The innermost decade stays unnamed: its words would run into those of the other sign.
    decades = [(i, "1e-4" if i == 4 else f"{edge:g}") for i, edge in enumerate(EDGES) if i % 4 == 0 and i]
    # Edge i lies between bin i and bin i + 1 of a sign, counted outwards from 1.
    ticks = [(-(i + 1.5), f"−{word}") for i, word in reversed(decades)] + [(0.0, "0")]
    ticks += [(i + 1.5, word) for i, word in decades]
    figure.update_xaxes(
        title_text="size of an entry, in standard deviations of the base's entries",
        tickvals=[at for at, _ in ticks],
        ticktext=[word for _, word in ticks],
        range=[-SIZES - 1, SIZES + 1],
        showgrid=False,
        zeroline=False,
        tickangle=0,
    )
    top = math.ceil(math.log10(max(most, 10)) * 2) / 2
    figure.update_yaxes(title_text="entries", type="log", range=[-0.15, top], dtick=1)
