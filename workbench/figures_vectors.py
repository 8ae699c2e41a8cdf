"""Value vectors before and after: how much of each one's direction and of its top tokens is left, a mark a vector.

Read it as: top right is untouched; grey are random vectors of the same MLPs, which say what happened to just any, and
the reference's marks say where a model lies that never learned the facts.
Does not show: which token a vector writes, nor whether the answer is written elsewhere; a vector of zeros has no
direction and no mark (`undirected` counts them).
"""

from collections.abc import Mapping
from typing import Any

import pandas as pd
import plotly.graph_objects as go

from workbench.figures_style import INK, MUTED, describes, finish, look_of, number, plain

LENGTH = "length after / before"
"""Column of what `workbench.vector_moves.moves` finds."""


def vector_scatter(
    moved: Mapping[str, pd.DataFrame], k: int, random: Mapping[str, pd.DataFrame] | None = None, chosen: str = ""
) -> go.Figure:
    """Jaccard index of the top tokens over the cosine, each against the base's vector.

    Args:
        moved: role -> what `workbench.vector_moves.moves` found.
        k: how many top tokens were compared.
        random: role -> the same of random vectors.
        chosen: the vector to draw a ring round.
    """
    figure, said = go.Figure(), []
    for position, (role, table) in enumerate((random or {}).items()):
        _cloud(figure, f"{role}, random", table, {"color": MUTED, "symbol": f"{look_of(role, position).marker}-open"})
        said.append(_means(f"{role}, random", table))
    for position, (role, table) in enumerate(moved.items()):
        look = look_of(role, position)
        _cloud(figure, role, table, {"color": look.color, "symbol": look.marker})
        said.insert(position, _means(role, table))
    for table in (*(random or {}).values(), *moved.values()):
        _ring(figure, table[table["vector"] == chosen])
    figure.update_xaxes(title_text="cosine with the base's vector")
    figure.update_yaxes(title_text=f"top {k} tokens shared (Jaccard)", range=[-0.05, 1.05])
    alt = f"Value vectors against the base's: {'; '.join(said) or 'nothing to compare'}."
    return finish(figure, "Direction and top tokens left of each vector", alt, 420)


def undirected(moved: Mapping[str, pd.DataFrame]) -> str:
    """A sentence on the vectors a scatter cannot draw: one of zeros has no direction. Empty where there are none."""
    gone = {role: int(table["cosine"].isna().sum()) for role, table in moved.items()}
    told = ", ".join(f"{count} of {role}" for role, count in gone.items() if count)
    return f"Not drawn, because a vector of zeros has no direction: {told}." if told else ""


def _cloud(figure: go.Figure, name: str, table: pd.DataFrame, marker: dict[str, Any]) -> None:
    """One role's marks; each has the vector's name as its id, by which an app knows it."""
    opacity = 0.6 if "open" in marker["symbol"] else 0.75
    size = 7 if "open" in marker["symbol"] else 9
    figure.add_scatter(
        x=table["cosine"],
        y=table["Jaccard"],
        name=plain(name),
        mode="markers",
        cliponaxis=False,
        marker={**marker, "size": size, "opacity": opacity},
        ids=list(table["vector"]),
        customdata=[[plain(vector), length] for vector, length in table[["vector", LENGTH]].to_numpy()],
        meta=describes("", name, "cosine", "Jaccard", ["vector", LENGTH]),
        hovertemplate="%{customdata[0]}<br>cosine %{x:.3g}, Jaccard %{y:.3g}, length × %{customdata[1]:.3g}"
        "<extra>" + plain(name) + "</extra>",
    )


def _ring(figure: go.Figure, row: pd.DataFrame) -> None:
    if row.empty or row["cosine"].isna().all():
        return
    figure.add_scatter(
        x=row["cosine"],
        y=row["Jaccard"],
        mode="markers",
        cliponaxis=False,
        marker={"symbol": "circle-open", "size": 18, "color": INK, "line": {"width": 2}},
        meta=["frame"],
        showlegend=False,
        hoverinfo="skip",
    )


def _means(name: str, table: pd.DataFrame) -> str:
    return (
        f"{name}: mean Jaccard {number(float(table['Jaccard'].mean()))}, mean cosine "
        f"{number(float(table['cosine'].mean()))} over {len(table)} vectors"
    )
