"""Pictures of a `Comparison`: where the weights changed, and of what shape the change is.

Read it as: colour is the relative change on a logarithmic scale; grey with `=` holds the same bytes, white has no such
tensor, `∞` was zero in the base. Weight and bias of a matrix share a cell. In the spectra an open mark lies below the
rank threshold: rounding, not a direction.
Does not show: which rows or columns changed (`Comparison.table`), nor what the change does to the model.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from workbench.comparison import Comparison, pooled
from workbench.comparison_rows import DIFFERENT
from workbench.comparison_words import percent, rank_words
from workbench.figures_style import MUTED, NOISE, ROLE_LOOKS, SPARE_LOOKS, describes, finish, number, plain
from workbench.tensor_names import MODULES

MARKED_CELLS = 600
"""Panels with more cells get no mark in each grey one."""

LOOKS = (*ROLE_LOOKS.values(), *SPARE_LOOKS)
"""One for each spectrum; as many as there are can be told apart."""

FIELDS = ("relative change", "norm of change", "entries changed", "share changed", "tensors changed", "rank")


@dataclass(frozen=True)
class Panel:
    """One heat map."""

    title: str
    """What it shows."""
    across: str
    """What the columns are."""
    rows: list[str]
    """Labels upwards."""
    columns: list[str]
    """Labels to the right."""
    cells: dict[tuple[str, str], pd.DataFrame]
    """(row, column) -> the rows of the table that fall there."""


def change_maps(comparison: Comparison) -> go.Figure:
    """Layer by matrix, and below it layer by expert where there are experts."""
    panels = change_panels(comparison.table[comparison.table["entries_changed"].notna()])
    heights = [max(150, min(420, 60 + 20 * len(panel.rows))) for panel in panels]
    figure = make_subplots(
        len(panels),
        1,
        row_heights=heights,
        vertical_spacing=min(0.35, 150 / (sum(heights) + 150)),
        subplot_titles=[plain(panel.title) for panel in panels],
    )
    scale = _scale([_relative(cell) for panel in panels for cell in panel.cells.values()])
    for place, panel in enumerate(panels, start=1):
        _draw(figure, panel, place, scale)
    alt = (
        f"Relative change of every part of {comparison.checkpoint} against {comparison.base}. {_largest(panels[0])} "
        "Grey cells marked = hold the same numbers, white ones hold no tensor."
    )
    finish(
        figure,
        f"What changed from {comparison.base} to {comparison.checkpoint}",
        alt,
        sum(heights) + 150 * len(panels) + 70,
    )
    figure.update_xaxes(type="category", showgrid=False)
    figure.update_xaxes(tickangle=-40, row=1, col=1)
    if len(panels) > 1:
        figure.update_xaxes(tickangle=0, title_text="expert", row=2, col=1)
    figure.update_yaxes(type="category", showgrid=False, title_text="layer")
    figure.update_layout(coloraxis=_colours(scale), margin={"t": 74})
    return figure.update_annotations(font={"size": 12})


def spectra(comparison: Comparison, k: int = 8) -> go.Figure:
    """Singular values of the change of the k most changed matrices (at most as many as can be told apart)."""
    changed = comparison.changed
    with_spectrum = changed[changed["singular_values"].notna()]
    figure, said = go.Figure(), []
    for row, look in zip(with_spectrum.head(min(k, len(LOOKS))).to_dict("records"), LOOKS, strict=False):
        values = np.asarray(row["singular_values"], dtype=float)
        drawn = values > 0
        rank = rank_words(row["rank"], row["rank_is_at_least"]) or "not measured"
        name = short_name(row)
        figure.add_scatter(
            x=np.flatnonzero(drawn) + 1,
            y=values[drawn],
            name=plain(name, 44),
            mode="lines+markers",
            line={"color": look.color, "dash": look.dash},
            marker={"size": 8, "symbol": _symbols(look.marker, values[drawn] > row["rank_threshold"])},
            meta=describes("", name, "number", "singular value"),
            hovertemplate=f"{plain(name)}<br>singular value %{{x}}: %{{y:.3g}}<br>rank {rank}, first direction "
            f"{percent(row['top_share'])} of the squared change<extra></extra>",
        )
        said.append(f"{name} rank {rank}")
    figure.update_xaxes(title_text="singular value, by size", dtick=_dtick(with_spectrum))
    figure.update_yaxes(
        title_text="singular value of the change", type="log", exponentformat="power", dtick=_decades(figure)
    )
    total = f" ({len(said)} most changed of {len(with_spectrum)} matrices)" if len(said) < len(with_spectrum) else ""
    found = "; ".join(said) or "no matrix changed"
    alt = f"Singular values of the change{total}: {found}. Open marks lie below the rank threshold."
    finish(figure, f"Spectrum of the change{total}", alt, 430)
    return figure.update_layout(
        showlegend=True,
        legend={"orientation": "v", "x": 1.02, "xanchor": "left", "y": 1, "yanchor": "top"},
    )


def change_panels(table: pd.DataFrame) -> list[Panel]:
    """Layer by matrix, and layer by expert where there are experts; biases count with their matrix."""
    matrix = table["matrix"].str.removesuffix(" bias")
    column = table["module"].astype(str) + " " + matrix.astype(str)
    column = column.where(table["module"].astype(str) != matrix.astype(str), matrix)
    rank = {name: place for place, name in enumerate(MODULES)}
    first = pd.DataFrame({"column": column, "module": table["module"].map(rank)}).drop_duplicates("column")
    columns = list(first.sort_values("module", kind="stable")["column"])
    panels = [_panel("by matrix", "matrix", table, column, columns)]
    experts = table.dropna(subset=["expert", "layer"])
    if len(experts):
        names = [str(expert) for expert in sorted(experts["expert"].unique())]
        panels.append(_panel("by expert", "expert", experts, experts["expert"].astype(str), names))
    return panels


def _panel(title: str, across: str, table: pd.DataFrame, column: "pd.Series[Any]", columns: list[str]) -> Panel:
    row = pd.Series([_row_label(layer, module) for layer, module in zip(table["layer"], table["module"], strict=True)])
    groups = table.groupby([row.set_axis(table.index), column], sort=False)
    cells = {(str(up), str(right)): group for (up, right), group in groups}
    layers = [str(layer) for layer in sorted(table["layer"].dropna().unique())]
    found = {up for up, _ in cells}
    rows = [*(["embed"] if "embed" in found else []), *layers, *(["head"] if "head" in found else [])]
    return Panel(title, across, rows, columns, cells)


def _row_label(layer: Any, module: str) -> str:
    if pd.isna(layer):
        return "embed" if module == "embedding" else "head"
    return str(int(layer))


def _relative(cell: pd.DataFrame) -> float:
    """Pooled relative change; 0 for the same bytes, NaN where the base is zero."""
    found = pooled(cell)
    return math.nan if found is None else found


def _largest(panel: Panel) -> str:
    """The cell that changed most, in words."""
    found = {at: value for at, cell in panel.cells.items() if (value := _relative(cell)) > 0}
    if not found:
        return ""
    row, column = max(found, key=lambda at: found[at])
    return f"Largest: {number(found[row, column])} at layer {row}, {column}."


def _scale(values: Sequence[float]) -> tuple[int, int]:
    """Whole decades that hold every change above zero."""
    logs = [math.log10(value) for value in values if value > 0]
    low, high = (math.floor(min(logs)), math.ceil(max(logs))) if logs else (-1, 0)
    return low, max(high, low + 1)


def _colours(scale: tuple[int, int]) -> dict[str, Any]:
    """The colour axis in decades. Viridis, because the middle of Cividis is grey, which means sameness here."""
    low, high = scale
    ticks = list(range(low, high + 1, max(1, math.ceil((high - low) / 8))))
    bar = {
        "title": {"text": "relative change", "side": "right"},
        "thickness": 12,
        "tickvals": ticks,
        "ticktext": [f"{10.0**tick:.0e}" if tick < -3 else f"{10.0**tick:g}" for tick in ticks],
    }
    return {"colorscale": "Viridis", "cmin": low, "cmax": high, "colorbar": bar}


def _draw(figure: go.Figure, panel: Panel, place: int, scale: tuple[int, int]) -> None:
    """Two layers that share no cell: what changed, in colour, and what is the same, in grey."""
    shape = (len(panel.rows), len(panel.columns))
    shown, same = np.full(shape, np.nan), np.full(shape, np.nan)
    marks, words = np.full(shape, "", dtype=object), np.full(shape, "", dtype=object)
    numbers = np.full((*shape, len(FIELDS)), None, dtype=object)
    for (up, right), cell in panel.cells.items():
        at = panel.rows.index(up), panel.columns.index(right)
        numbers[at], words[at] = _facts_of(cell)
        if not cell["status"].isin(DIFFERENT).any():
            same[at], marks[at] = 1.0, "=" if same.size <= MARKED_CELLS else ""
        else:
            relative = _relative(cell)
            shown[at] = scale[1] if math.isnan(relative) else max(scale[0], math.log10(relative or 10.0 ** scale[0]))
            marks[at] = "∞" if math.isnan(relative) else ""
    shared = {
        "x": [plain(column, 40) for column in panel.columns],
        "y": panel.rows,
        "xgap": 1,
        "ygap": 1,
        "hoverongaps": False,
        "hovertext": words,
        "hovertemplate": f"layer %{{y}}, {panel.across} %{{x}}<br>%{{hovertext}}<extra></extra>",
        "texttemplate": "%{text}",
    }
    meta = describes(panel.title, "", panel.across, "layer", FIELDS)
    changed = go.Heatmap(
        z=shown,
        coloraxis="coloraxis",
        text=np.where(np.isfinite(shown), marks, ""),
        customdata=numbers,
        meta=meta,
        **shared,
    )
    grey = go.Heatmap(
        z=same,
        colorscale=[[0, NOISE], [1, NOISE]],
        showscale=False,
        text=np.where(np.isfinite(same), marks, ""),
        textfont={"color": MUTED, "size": 11},
        **shared,
    )
    figure.add_traces([changed, grey], rows=[place, place], cols=[1, 1])


def _facts_of(cell: pd.DataFrame) -> tuple[np.ndarray, str]:
    """The numbers of a cell as in `FIELDS`, and the same in words for the hover."""
    differ = cell[cell["status"].isin(DIFFERENT)]
    changed, entries = int(cell["entries_changed"].sum()), int(cell["entries"].sum())
    norm, relative = float(np.sqrt(np.square(cell["change_norm"]).sum())), _relative(cell)
    ranks = differ["rank"].dropna()
    rank = None if ranks.empty else int(ranks.max())
    facts = [None if math.isnan(relative) else relative, norm, changed, changed / max(entries, 1), len(differ), rank]
    count = f"{len(cell)} tensor{'s' if len(cell) > 1 else ''}"
    if differ.empty:
        words = f"same numbers ({count}, {entries:,} entries)"
    else:
        size = "from zero" if math.isnan(relative) else f"relative change {number(relative)}"
        at_least = bool(differ["rank_is_at_least"].fillna(False).astype(bool).any())
        words = f"{size}, norm {number(norm)}<br>{changed:,} of {entries:,} entries, {len(differ)} of {count}" + (
            "" if rank is None else f"<br>rank {'up to ' if len(ranks) > 1 else ''}{rank_words(rank, at_least)}"
        )
    return np.array(facts, dtype=object), words


def short_name(row: Mapping[Any, Any]) -> str:
    """A tensor as `L3 mlp down_proj`, for a legend."""
    expert = "" if pd.isna(row["expert"]) else f" expert {row['expert']}"
    layer = "" if pd.isna(row["layer"]) else f"L{row['layer']} "
    return f"{layer}{row['module']}{expert} {row['matrix']}"


def _symbols(marker: str, counts: np.ndarray) -> list[str]:
    return [marker if one else f"{marker}-open" for one in counts]


def _dtick(rows: pd.DataFrame) -> int | None:
    longest = max((len(values) for values in rows["singular_values"]), default=1)
    return 1 if longest <= 20 else None


def _decades(figure: go.Figure) -> int | None:
    """Decades between ticks where there are many; None leaves few to plotly, which then marks parts of a decade."""
    logs = [math.log10(value) for series in figure.data for value in series.y]
    span = max(logs) - min(logs) if logs else 0.0
    return None if span < 3 else math.ceil(span / 8)
