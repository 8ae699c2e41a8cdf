"""Pictures of one changed matrix beside its base: the angles of their directions, and what lies inside what.

Source: as `workbench.tensor_overlap` names them.
Read it as: a bright cell of the map is a direction of the change that is one of the base's; a mark high above the
broken line of chance is a direction of the change made of the base's leading ones, be it of one or of several.
Does not show: directions of the base after the leading ones: a low mark may lie among those.
"""

from collections.abc import Mapping
from typing import Any, Literal

import numpy as np
import pandas as pd
import plotly.graph_objects as go
from jaxtyping import Float
from plotly.subplots import make_subplots

from workbench.comparison_rows import WITHOUT_OVERLAP
from workbench.figures_compare import short_name
from workbench.figures_style import ROLE_LOOKS, describes, finish, number, plain
from workbench.subspaces import by_chance, principal_by_chance, principal_cosines, share_inside

Side = Literal["left", "right"]
"""Left singular vectors belong to the first stored axis of a matrix, right ones to the second."""

SIDES: tuple[Side, ...] = ("left", "right")
LOOKS = {"left": ROLE_LOOKS["base"], "right": ROLE_LOOKS["checkpoint"]}


def cosines_of(row: Mapping[Any, Any], side: Side) -> Float[np.ndarray, "base change"]:
    """Cosines of the base's leading directions with the change's, of one row of a comparison."""
    return np.asarray(row[f"{side}_cosines"], dtype=float).reshape(len(row["base_singular_values"]), -1)


def chance_of(row: Mapping[Any, Any], side: Side) -> tuple[float, float]:
    """Mean and standard deviation of the overlap of random directions in the space of one side."""
    base, change = cosines_of(row, side).shape
    return by_chance(base, change, _size(row, side))


def why_no_overlap(row: Mapping[Any, Any]) -> str:
    """Why a changed tensor was not held against its base; empty where it was."""
    if row["base_singular_values"] is not None:
        return ""
    if pd.isna(row["rank"]):
        return "a vector has no directions of its own"
    if not row["rank"]:
        return "the change has no direction above what rounding leaves"
    told = [part for part in str(row["note"]).split("; ") if part.startswith(WITHOUT_OVERLAP)]
    return told[0] if told else "the base's matrix has no direction"


def angle_map(row: Mapping[Any, Any]) -> go.Figure:
    """Size of the cosine of every leading direction of the change with every leading one of the base, a panel a side.

    Args:
        row: of `Comparison.table`, with cosines.
    """
    figure = make_subplots(1, 2, subplot_titles=[f"{side} directions" for side in SIDES], horizontal_spacing=0.12)
    said = []
    for column, side in enumerate(SIDES, start=1):
        size = np.abs(cosines_of(row, side))
        figure.add_heatmap(
            z=size,
            x=[str(i + 1) for i in range(size.shape[1])],
            y=[str(i + 1) for i in range(len(size))],
            coloraxis="coloraxis",
            xgap=1,
            ygap=1,
            customdata=size[..., None],
            meta=describes(side, "", "direction of the change", "direction of the base", ("cosine",)),
            hovertemplate="base %{y}, change %{x}: %{z:.3g}<extra></extra>",
            row=1,
            col=column,
        )
        up, right = np.unravel_index(int(size.argmax()), size.shape)
        said.append(
            f"{side}: largest {number(float(size.max()))}, the change's direction {right + 1} with the base's {up + 1}"
        )
    figure.update_xaxes(type="category", showgrid=False, title_text="direction of the change")
    figure.update_yaxes(type="category", showgrid=False, title_text="direction of the base", col=1)
    finish(
        figure,
        f"Angles of the directions: {short_name(row)}",
        f"Cosines of the change's directions with the base's. {'; '.join(said)}.",
        360,
    )
    bar = {"title": {"text": "cosine, without sign", "side": "right"}, "thickness": 12}
    figure.update_layout(coloraxis={"colorscale": "Viridis", "cmin": 0, "cmax": 1, "colorbar": bar}, margin={"t": 74})
    return figure.update_annotations(font={"size": 12})


def overlap_lines(row: Mapping[Any, Any]) -> go.Figure:
    """How much of each direction of the change lies inside the base's, and the principal angles, with chance beside.

    Args:
        row: of `Comparison.table`, with cosines.
    """
    titles = ["share of each direction inside the base's", "cosines of the principal angles"]
    figure = make_subplots(1, 2, subplot_titles=titles, horizontal_spacing=0.1)
    said = []
    for side in SIDES:
        cosines, size = cosines_of(row, side), _size(row, side)
        (r, k), (mean, spread) = cosines.shape, chance_of(row, side)
        inside = share_inside(cosines)
        _line(figure, 1, (side, "inside"), inside)
        _chance(figure, 1, side, np.full(k, r / size if size > r else 1.0))
        angles = principal_cosines(cosines)
        _line(figure, 2, (side, "cosine"), angles)
        _chance(figure, 2, side, principal_by_chance(r, k, size)[1])
        said.append(
            f"{side}: {number(float(inside.mean()))} on average, first direction {number(float(inside[0]))}, by chance "
            f"{number(mean)} ± {number(spread)} ({r} of {size}), closest angle has cosine {number(float(angles[0]))}"
        )
    figure.update_xaxes(title_text="direction of the change", col=1, dtick=1)
    figure.update_xaxes(title_text="principal angle, closest first", col=2, dtick=1)
    figure.update_yaxes(range=[-0.03, 1.05])
    alt = f"Overlap of the change of {short_name(row)} with the base's directions. {'; '.join(said)}."
    finish(figure, f"Inside the base's directions: {short_name(row)}", alt, 360)
    figure.update_layout(margin={"t": 74, "b": 90}, legend={"y": -0.24, "yanchor": "top"}, showlegend=True)
    return figure.update_annotations(font={"size": 12})


def _line(figure: go.Figure, column: int, names: tuple[str, str], values: np.ndarray) -> None:
    side, what = names
    look = LOOKS[side]
    figure.add_scatter(
        x=np.arange(1, len(values) + 1),
        y=values,
        name=side,
        legendgroup=side,
        showlegend=column == 1,
        mode="lines+markers",
        line={"color": look.color, "dash": "solid", "width": 1.5},
        marker={"symbol": look.marker, "size": 8},
        meta=describes(["share inside", "principal angles"][column - 1], side, "number", what),
        hovertemplate=f"{side} %{{x}}: %{{y:.3g}}<extra></extra>",
        row=1,
        col=column,
    )


def _chance(figure: go.Figure, column: int, side: str, values: np.ndarray) -> None:
    """What random directions give: the mean in the first panel, the 95% quantile of each angle in the second."""
    what = f"{side}, by chance"
    figure.add_scatter(
        x=np.arange(1, len(values) + 1),
        y=values,
        name=what,
        legendgroup=f"{side} chance",
        showlegend=column == 1,
        mode="lines+markers" if len(values) == 1 else "lines",
        line={"color": LOOKS[side].color, "dash": "dash" if side == "left" else "dot", "width": 1.2},
        marker={"symbol": f"{LOOKS[side].marker}-open", "size": 8},
        meta=describes(["share inside", "principal angles"][column - 1], f"{side}, by chance", "number", "by chance"),
        hovertemplate=f"{plain(side)}, by chance: %{{y:.3g}}<extra></extra>",
        row=1,
        col=column,
    )


def _size(row: Mapping[Any, Any], side: Side) -> int:
    """Dimensions of the space that the directions of one side lie in."""
    first = int(str(row["shape"]).partition(" × ")[0])
    return first if side == "left" else int(row["entries"]) // first
