"""The answer's score as its subject is corrupted and one state is put back, each model a line.

Read it as: the line falls where the corruption destroys the answer and rises where the state restores it; a model that
never had the answer stays flat. Bars are 95% intervals over facts; thin lines are the copies of a single fact.
Does not show: other states; the map does.
"""

from collections.abc import Mapping

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from workbench.errors import BadInput
from workbench.figures_bands import band_of
from workbench.figures_style import describes, finish, look_of, number, plain
from workbench.trace import Trace
from workbench.trace_moves import STAGES


def moves_figure(
    moves: Mapping[str, Trace], title: str, samples: Mapping[str, pd.DataFrame] | None = None
) -> go.Figure:
    """Clean, corrupted, restored.

    Args:
        moves: role -> trace of `workbench.trace_moves.moves_of`, at least one.
        title: which cell it is.
        samples: role -> table of `samples_of`, drawn thin.

    Raises:
        BadInput: without a role.
    """
    if not moves:
        raise BadInput(f"{title}: there are no moves to draw")
    figure, told = go.Figure(), []
    units = next(iter(moves.values())).units
    for position, (role, trace) in enumerate(moves.items()):
        look, band = look_of(role, position), band_of(trace, "stage")
        for row in (samples or {}).get(role, pd.DataFrame()).itertuples(index=False):
            figure.add_scatter(
                x=list(STAGES[1:]),
                y=[row.corrupted, row.restored],
                mode="lines",
                line={"color": look.color, "width": 1},
                opacity=0.45,
                showlegend=False,
                hovertemplate=f"{plain(row[0], 40)}: %{{y:.3g}}<extra>{plain(role)}</extra>",
            )
        figure.add_scatter(
            x=list(STAGES),
            y=band.mean,
            name=plain(role),
            mode="lines+markers",
            cliponaxis=False,
            line={"color": look.color, "dash": look.dash, "width": 2},
            marker={"color": look.color, "symbol": look.marker, "size": 9},
            error_y=_bars(band.mean, band.low, band.high),
            customdata=np.stack([band.low, band.high, np.full(len(STAGES), band.items)], axis=1),
            meta=describes("", role, "stage", units, ["low", "high", "facts"]),
            hovertemplate="%{x}: %{y:.3g} [%{customdata[0]:.3g}, %{customdata[1]:.3g}]<extra>"
            + plain(role)
            + "</extra>",
        )
        told.append(f"{role} " + " → ".join(number(float(value)) for value in band.mean) + band.of_what)
    figure.update_xaxes(type="category", categoryorder="array", categoryarray=list(STAGES), range=[-0.25, 2.25])
    figure.update_yaxes(title_text=plain(units), rangemode="tozero")
    alt = f"{title}: {units} clean → corrupted → with this state put back. {'; '.join(told)}."
    return finish(figure, title, alt, 320)


def _bars(mean: np.ndarray, low: np.ndarray, high: np.ndarray) -> dict[str, object]:
    return {"type": "data", "symmetric": False, "array": high - mean, "arrayminus": mean - low, "thickness": 1.4}
