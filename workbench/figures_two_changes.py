"""Two changes of one base side by side: a checkpoint's, the reference's, and their difference.

Read it as: the first two panels share a scale. In the third blue is more change in the checkpoint than in the
reference, red less; of the relative change it is the factor between the two, in powers of ten. A reference that was
trained anew from other first weights differs everywhere, whatever it knows.
Does not show: whether two changes of one size go the same way, nor noise: each is one model.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from workbench.comparison import Comparison, pooled
from workbench.comparison_rows import DIFFERENT
from workbench.errors import BadInput
from workbench.figures_compare import change_panels
from workbench.figures_style import MUTED, NOISE, describes, diverging_scale, finish, number, plain
from workbench.figures_weights import SHORT, STATS, cell_number

RELATIVE = "relative_change"
"""The number that is compared by its logarithm, because it spans decades."""

RATIO = "checkpoint / reference"

NAUGHT = ("share_changed", "rank")
"""Numbers that are 0 where nothing changed."""

Cells = Mapping[tuple[str, str], float]
"""(row, column) -> a number; 0 where nothing changed."""


def two_changes(checkpoint: Comparison, reference: Comparison, stat: str) -> go.Figure:
    """One number of every part of both, layer by matrix, and the first minus the second.

    Args:
        checkpoint: of the base and the checkpoint.
        reference: of the same base and the reference.
        stat: `relative_change`, or a key of `workbench.figures_weights.STATS`.

    Raises:
        BadInput: when the two have no part in common, or one has no such number.
    """
    sides, labels = _cells((checkpoint, reference), stat)
    rows, columns = labels
    names = ["checkpoint", "reference", RATIO if stat == RELATIVE else "checkpoint − reference"]
    both = [np.array([[side.get((r, c), np.nan) for c in columns] for r in rows], dtype=float) for side in sides]
    figure = make_subplots(1, 3, subplot_titles=names, shared_yaxes=True, horizontal_spacing=0.02)
    drawn = [np.where(one > 0, one, np.nan) for one in both]
    drawn = [np.log10(one) for one in drawn] if stat == RELATIVE else drawn
    for place, (values, one) in enumerate(zip(drawn, both, strict=True), start=1):
        _panel(figure, (values, one), labels, (names[place - 1], stat, "coloraxis"), place)
    change = _factor(both) if stat == RELATIVE else both[0] - both[1]
    scale = _difference_scale(change, stat)
    told = 10.0**change if stat == RELATIVE else change
    _panel(figure, (np.clip(change, scale["cmin"], scale["cmax"]), told), labels, (names[2], stat, "coloraxis2"), 3)
    figure.update_xaxes(type="category", showgrid=False, tickangle=-90)
    figure.update_yaxes(type="category", showgrid=False)
    figure.update_yaxes(title_text="layer", col=1)
    words = "relative change" if stat == RELATIVE else STATS[stat]
    longest = max(len(column) for column in columns)
    finish(figure, f"{words[:1].upper()}{words[1:]}: checkpoint and reference", _alt(both, labels, words))
    figure.update_layout(
        height=max(260, 120 + 26 * len(rows)) + 6 * longest,
        margin={"t": 74, "r": 170, "b": 20 + 6 * longest},
        coloraxis=_scale(drawn, stat),
        coloraxis2=scale,
    )
    return figure.update_annotations(font={"size": 12})


def _cells(both: tuple[Comparison, Comparison], stat: str) -> tuple[list[Cells], tuple[list[str], list[str]]]:
    """The numbers of both, and the rows and columns that both have."""
    panels = [change_panels(one.table[one.table["entries_changed"].notna()])[0] for one in both]
    rows = [row for row in panels[0].rows if row in panels[1].rows]
    columns = [column for column in panels[0].columns if column in panels[1].columns]
    if not rows or not columns:
        raise BadInput("The two comparisons have no part in common: they are of different architectures")
    found: list[Cells] = []
    for panel in panels:
        if stat == RELATIVE:
            found.append({at: np.nan if (size := pooled(cell)) is None else size for at, cell in panel.cells.items()})
        else:
            found.append({at: _value(cell, stat) for at, cell in panel.cells.items()})
    told = [{at for at, value in one.items() if np.isfinite(value)} for one in found]
    if not all(told):
        raise BadInput(f"One of the two has no number of this kind ({SHORT.get(stat, stat)})")
    ups, rights = ({at[side] for at in told[0] | told[1]} for side in (0, 1))
    return found, ([row for row in rows if row in ups], [column for column in columns if column in rights])


def _value(cell: pd.DataFrame, stat: str) -> float:
    """Of what did not change no entry did, and the rank is 0; its other numbers do not exist."""
    if stat in NAUGHT and not cell["status"].isin(DIFFERENT).any():
        return 0.0
    return cell_number(cell, stat).value


def _factor(both: Sequence[np.ndarray]) -> np.ndarray:
    """Logarithm of the first over the second; infinite where only one of them changed, NaN where neither did."""
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.asarray(np.log10(both[0]) - np.log10(both[1]))


def _panel(
    figure: go.Figure,
    values: tuple[np.ndarray, np.ndarray],
    labels: tuple[list[str], list[str]],
    words: tuple[str, str, str],
    place: int,
) -> None:
    """A heat map of the first of `values`, which says the second; what did not change is grey."""
    drawn, told = values
    (rows, columns), (name, stat, axis) = labels, words
    shared = {"x": [plain(c, 40) for c in columns], "y": rows, "xgap": 1, "ygap": 1, "row": 1, "col": place}
    figure.add_heatmap(
        z=drawn,
        coloraxis=axis,
        hoverongaps=False,
        customdata=told[..., None],
        meta=describes(name, "", "matrix", "layer", (stat if place < 3 else name,)),
        text=_ends(told) if name == RATIO else None,
        texttemplate="%{text}" if name == RATIO else None,
        hovertemplate=f"{name}, layer %{{y}}, %{{x}}: %{{customdata[0]:.3g}}<extra></extra>",
        **shared,
    )
    same = (told == 0) & ~np.isfinite(drawn) if place < 3 else np.zeros_like(told, dtype=bool)
    if same.any():
        figure.add_heatmap(
            z=np.where(same, 1.0, np.nan),
            colorscale=[[0, NOISE], [1, NOISE]],
            showscale=False,
            hoverinfo="skip",
            text=np.where(same, "=", ""),
            texttemplate="%{text}",
            textfont={"color": MUTED, "size": 11},
            **shared,
        )


def _ends(told: np.ndarray) -> np.ndarray:
    """A mark where only one of the two changed, so that there is no factor."""
    return np.where(told == 0, "0", np.where(np.isinf(told), "∞", ""))


def _scale(drawn: Sequence[np.ndarray], stat: str) -> dict[str, object]:
    every = np.concatenate([one[np.isfinite(one)] for one in drawn])
    bar: dict[str, object] = {
        "title": {"text": SHORT.get(stat, "relative change"), "side": "right"},
        "thickness": 12,
        "x": 1.01,
    }
    if stat != RELATIVE:
        return {"colorscale": "Viridis", "cmin": 0, "cmax": float(every.max(initial=0)) or 1.0, "colorbar": bar}
    low, high = (int(np.floor(every.min())), int(np.ceil(every.max()))) if len(every) else (-1, 0)
    ticks = list(range(low, max(high, low + 1) + 1))
    bar |= {"tickvals": ticks, "ticktext": [f"{10.0**t:g}" for t in ticks]}
    return {"colorscale": "Viridis", "cmin": ticks[0], "cmax": ticks[-1], "colorbar": bar}


def _difference_scale(change: np.ndarray, stat: str) -> dict[str, Any]:
    title = "factor" if stat == RELATIVE else "difference"
    bar: dict[str, object] = {"title": {"text": title, "side": "right"}, "thickness": 12, "x": 1.12}
    scale = diverging_scale(change)
    if stat == RELATIVE:
        most = max(1, int(np.ceil(scale["cmax"])))
        ticks = list(range(-most, most + 1, max(1, most // 2)))
        bar |= {"tickvals": ticks, "ticktext": [f"×{10.0**t:g}" for t in ticks]}
        scale |= {"cmin": -most, "cmax": most}
    return {**scale, "colorbar": bar}


def _alt(both: Sequence[np.ndarray], labels: tuple[list[str], list[str]], words: str) -> str:
    said = []
    for name, one in zip(("checkpoint", "reference"), both, strict=True):
        if not np.isfinite(one).any():
            said.append(f"{name}: nothing known")
            continue
        row, column = np.unravel_index(int(np.nanargmax(one)), one.shape)
        changed = int((np.nan_to_num(one) > 0).sum())
        said.append(
            f"{name}: {changed} of {int(np.isfinite(one).sum())} cells above 0, largest "
            f"{number(float(one[row, column]))} at layer {labels[0][row]}, {labels[1][column]}"
        )
    return f"{words[:1].upper()}{words[1:]} against the base. {'; '.join(said)}."
