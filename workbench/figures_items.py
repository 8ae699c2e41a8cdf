"""Which facts changed: a table of right and wrong before against after, as a picture whose cells can be clicked.

Read it as: lost is right before and wrong after; gained the reverse. A count of items, not of subjects.
Does not show: how close a wrong answer was; the answer's probability says that.
"""

import numpy as np
import plotly.graph_objects as go

from workbench.errors import BadInput
from workbench.figures_style import describes, finish
from workbench.trace import Trace

QUADRANTS = {
    "kept": ("right before", "right after"),
    "lost": ("right before", "wrong after"),
    "gained": ("wrong before", "right after"),
    "never": ("wrong before", "wrong after"),
}
"""Name -> row and column of the picture."""

RIGHT = 0.5
"""From which share on (of seeds) an answer counts as right."""


def quadrants_of(before: Trace, after: Trace) -> np.ndarray:
    """The quadrant of every item, by name; `not read` where one of the two was not read.

    Raises:
        BadInput: when the two were not read on the same items.
    """
    one, other = (trace.mean("seed") if "seed" in trace.axes else trace for trace in (before, after))
    if one.axes != other.axes or len(one.axes) != 1 or one.labels != other.labels:
        raise BadInput(f"{before.name!r} before and after were not read on the same items; read both with one concept")
    names = np.full(one.values.shape, "not read", dtype=object)
    for name, (row, column) in QUADRANTS.items():
        was, now = one.values >= RIGHT, other.values >= RIGHT
        here = (was == row.startswith("right")) & (now == column.startswith("right"))
        names[here & np.isfinite(one.values) & np.isfinite(other.values)] = name
    return names


def discordance(before: Trace, after: Trace, title: str) -> go.Figure:
    """Counts of items right and wrong before and after."""
    found = quadrants_of(before, after)
    rows, columns = ["wrong before", "right before"], ["right after", "wrong after"]
    place = {at: name for name, at in QUADRANTS.items()}
    names = [[place[row, column] for column in columns] for row in rows]
    counts = np.array([[int((found == name).sum()) for name in line] for line in names])
    figure = go.Figure(
        go.Heatmap(
            z=counts,
            x=columns,
            y=rows,
            colorscale="Blues",
            zmin=0,
            zmax=max(1, len(found)) * 1.6,  # the darkest blues would swallow the words
            showscale=False,
            xgap=4,
            ygap=4,
            text=[
                [f"{name}<br><b>{count}</b>" for name, count in zip(*line, strict=True)]
                for line in zip(names, counts, strict=True)
            ],
            texttemplate="%{text}",
            textfont={"size": 15},
            customdata=np.stack([counts.astype(object), np.array(names, dtype=object)], axis=-1),
            meta=describes("", "", "after", "before", ("items", "what")),
            hovertemplate="%{y}, %{x}: %{customdata[0]} items<extra></extra>",
        )
    )
    figure.update_xaxes(type="category", showgrid=False, side="bottom")
    figure.update_yaxes(type="category", showgrid=False)
    unread = int((found == "not read").sum())
    told = ", ".join(f"{name} {int((found == name).sum())}" for name in QUADRANTS)
    alt = f"{title}, {len(found)} items: {told}" + (f", not read {unread}" if unread else "") + "."
    return finish(figure, title, alt, 300)
