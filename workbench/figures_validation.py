"""The picture of a causal validation: what damaging the found vectors, and random ones, costs each set of facts.

Read it as: the found vectors hold the concept when their mark stands far right of everything else; bars are 95%
intervals over subjects, small marks the mean of each draw of random neurons on the forget facts.
Does not show: single facts, nor which of the vectors it was.
"""

import plotly.graph_objects as go

from workbench.figures_style import describes, finish, look_of, number, plain
from workbench.trace import Trace

LOOKS = {"found": look_of("checkpoint"), "random": look_of("never taught")}
"""The found vectors, and the control."""


def validation_figure(trace: Trace) -> go.Figure:
    """A mark with its interval for each set of facts and each kind of vectors."""
    summary = trace.notes["summary"][trace.notes["options"]["measure"]]
    sets, figure, said = list(summary["sets"]), go.Figure(), []
    for kind in LOOKS:
        rows = [summary["sets"][name][kind] for name in sets]
        figure.add_trace(_marks(kind, sets, rows, trace.units))
        means = (f"{name} {number(row['mean'])}" for name, row in zip(sets, rows, strict=True))
        said.append(f"{kind} vectors {', '.join(means)}")
    draws = [value for value in summary["draws"]["random"] if value is not None]
    figure.add_scatter(
        x=draws,
        y=["forget"] * len(draws),
        name="each random draw",
        mode="markers",
        marker={"color": LOOKS["random"].color, "symbol": "line-ns-open", "size": 12},
        meta=describes("", "each random draw", trace.units, "facts"),
        hovertemplate="%{x:.3g}<extra></extra>",
    )
    figure.update_yaxes(type="category", categoryorder="array", categoryarray=sets[::-1])
    figure.update_xaxes(title_text=plain(trace.units), rangemode="tozero")
    title = f"{trace.name} ({len(trace.notes['vectors'])} vectors, {trace.notes['options']['damage']})"
    return finish(figure, title, f"{title}, {trace.units}: {'; '.join(said)}.", 150 + 50 * len(sets))


def _marks(kind: str, sets: list[str], rows: list[dict[str, float]], units: str) -> go.Scatter:
    """Mean drop of each set, with its interval."""
    return go.Scatter(
        x=[row["mean"] for row in rows],
        y=sets,
        error_x={
            "type": "data",
            "symmetric": False,
            "array": [row["high"] - row["mean"] for row in rows],
            "arrayminus": [row["mean"] - row["low"] for row in rows],
        },
        customdata=[[row["low"], row["high"], row["n"]] for row in rows],
        name=f"{kind} vectors",
        mode="markers",
        marker={"color": LOOKS[kind].color, "symbol": LOOKS[kind].marker, "size": 11},
        meta=describes("", f"{kind} vectors", units, "facts", ("low", "high", "n")),
        hovertemplate="%{y}: %{x:.3g} [%{customdata[0]:.3g}, %{customdata[1]:.3g}]<extra></extra>",
    )
