"""Which facts changed: right and wrong before against after, as cells to click; and every way one fact was asked.

Read it as: lost is right before and wrong after; gained the reverse. A count of items, not of subjects. Of one fact
each row is a way of asking, a light cell an answer that came out; a dash was not asked or not read.
Does not show: how close a wrong answer was; the answer's probability says that.
"""

from collections.abc import Sequence

import numpy as np
import plotly.graph_objects as go

from workbench.askings import Asking, askings_table
from workbench.errors import BadInput
from workbench.figures_style import describes, finish, number, plain
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


def askings_map(found: Sequence[Asking], title: str, pinned: Sequence[Asking] = ()) -> go.Figure:
    """Every way one fact was asked: a row a way, a column a model, and beside it those of a pinned fact.

    Args:
        found: the chosen fact's, at least one.
        title: which fact it is.
        pinned: another fact's, set beside where it was asked the same way.

    Raises:
        BadInput: when there is no row to draw.
    """
    if not found:
        raise BadInput(f"{title}: there is no way of asking to draw")
    table = askings_table(found, pinned)
    columns = [
        str(name) for name in table if name not in ("asked", "unit", "prompt") and not str(name).endswith(" said")
    ]
    values = table[columns].to_numpy(dtype=float)
    right = [unit.startswith("share") for unit in table["unit"]]
    words = [[_mark(value, share) for value in row] for row, share in zip(values, right, strict=True)]
    shown = [plain(name, 40) for name in columns]
    figure = go.Figure(
        go.Heatmap(
            z=values,
            x=shown,
            y=[plain(what, 48) for what in table["asked"]],
            colorscale="Cividis",
            zmin=0,
            zmax=1,
            xgap=2,
            ygap=2,
            text=words,
            texttemplate="%{text}",
            customdata=values[..., None],
            meta=describes("", "", "model", "asked", ("value",)),
            colorbar={"title": {"text": "1: the answer", "side": "right"}, "thickness": 12},
            hovertemplate="%{y}, %{x}: %{text}<extra></extra>",
        )
    )
    broken = [name.replace("pinned: ", "pinned<br>", 1) for name in shown]
    figure.update_xaxes(type="category", showgrid=False, side="top", tickvals=shown, ticktext=broken, tickangle=0)
    figure.update_yaxes(type="category", showgrid=False, autorange="reversed")
    told = (f"{name} right in {_count(values[right, i])}" for i, name in enumerate(columns))
    alt = f"{title}, asked in {len(table)} ways; of those that are right or wrong: {', '.join(told)}."
    return finish(figure, title, alt, 146 + 24 * len(table)).update_layout(margin={"t": 90, "l": 190})


def _mark(value: float, share: bool) -> str:
    """A number in a cell; in words where it is right or wrong."""
    if not np.isfinite(value):
        return "–"
    return {0.0: "wrong", 1.0: "right"}.get(value, number(value)) if share else number(value)


def _count(values: np.ndarray) -> str:
    there = values[np.isfinite(values)]
    return f"{int((there >= RIGHT).sum())} of {len(there)}"
