"""The lens over one text: layers upwards, tokens to the right, the word that stands first written in each cell.

Read it as: the colour is one scale for all models: probability of the token asked for (0 to 1), or its rank (light is
first). The difference is after minus before, on a scale of its own; of one text no noise is known, so no cell is grey.
Does not show: words in second place, nor single cells of texts longer than a screen (words are left out there).
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import pandas as pd
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from workbench.errors import BadInput
from workbench.figures_style import describes, diverging_scale, finish, number, plain
from workbench.figures_tokens import visible
from workbench.trace import Trace
from workbench.trace_cuts import layer_name

Statistic = Literal["probability", "rank"]
"""What the colour is."""

CHANGE = "after − before"
"""Name of the panel of differences."""

ACROSS, LETTER = 620, 6.6
"""Pixels for the panels beside each other, and of one letter."""

SIDE_BY_SIDE = 14
"""Tokens up to which two panels stand beside each other."""

NARROWEST = 3
"""Letters that a cell must have room for, or no words are written."""


@dataclass(frozen=True)
class WordGrid:
    """One model's lens over one text."""

    layers: tuple[str, ...]
    """Upwards."""
    tokens: tuple[str, ...]
    """To the right, each with its place before it, so that no two are alike."""
    asked: tuple[str, ...]
    """The token that each position is asked for."""
    probability: np.ndarray
    """(layer, token) of the token asked for."""
    rank: np.ndarray
    """(layer, token) of the token asked for."""
    likeliest: np.ndarray
    """(layer, token): probability of the word that stands first."""
    words: np.ndarray
    """(layer, token): that word."""

    def frame(self, role: str) -> pd.DataFrame:
        """A row a cell."""
        rows = [
            {
                "role": role,
                "layer": layer,
                "token": token,
                "asked for": self.asked[j],
                "probability": float(self.probability[i, j]),
                "rank": float(self.rank[i, j]),
                "first word": self.words[i, j],
                "its probability": float(self.likeliest[i, j]),
            }
            for i, layer in enumerate(self.layers)
            for j, token in enumerate(self.tokens)
        ]
        return pd.DataFrame(rows)


def word_grid(trace: Trace, fact: str) -> WordGrid:
    """The cells of one fact of a `lens_words` trace.

    Raises:
        BadInput: when the trace was not read on it, or its notes do not fit its numbers.
    """
    one = trace.pick("fact", fact)
    at, notes = trace.labels["fact"].index(fact), trace.notes
    try:
        tokens = [visible(str(token), 14) for token in notes["tokens"][at]]
        asked = tuple(visible(str(token), 14) for token in notes["asked"][at])
        spelt = {str(i): visible(str(word)) for i, word in notes["vocabulary"].items()}
        cut = {m: one.pick("measure", m).values[:, : len(tokens)].astype(float) for m in one.labels["measure"]}
        ids = np.where(np.isfinite(cut["word"]), cut["word"], -1).astype(int)
        words = np.array([[spelt.get(str(i), "") for i in line] for line in ids.tolist()], dtype=object)
        found = (cut["probability"], cut["rank"], cut["likeliest"], words.reshape(ids.shape))
        if len(asked) != len(tokens) or ids.shape[1] != len(tokens):
            raise ValueError("another number of tokens")
    except (LookupError, TypeError, ValueError, AttributeError) as error:
        raise BadInput(f"The notes of {trace.name!r} do not fit its numbers ({error}); read it again") from None
    names = tuple(f"{i} {token}" for i, token in enumerate(tokens))
    return WordGrid(tuple(layer_name(label) for label in trace.labels["layer"]), names, asked, *found)


def words_map(by_role: Mapping[str, Trace], fact: str, statistic: Statistic = "probability") -> go.Figure:
    """The lens of one or more models over one fact, from their `lens_words` traces.

    Raises:
        BadInput: when a trace was not read on the fact.
    """
    return grids_figure({role: word_grid(t, fact) for role, t in by_role.items()}, f"Lens over {fact}", statistic)


def grids_figure(grids: Mapping[str, WordGrid], title: str, statistic: Statistic = "probability") -> go.Figure:
    """Panels of one or more models, and the difference of the first two where both read the same tokens.

    Args:
        grids: role -> grid; the first is what the second is compared with.
        title: of the picture.
        statistic: what the colour is.
    """
    roles = list(grids)
    panels: list[str] = roles[:]
    alike = len(roles) > 1 and (grids[roles[0]].layers, grids[roles[0]].tokens) == (
        grids[roles[1]].layers,
        grids[roles[1]].tokens,
    )
    if alike:
        panels.insert(2, CHANGE)
    widest = max(len(grid.tokens) for grid in grids.values())
    columns = 2 if len(panels) > 1 and widest <= SIDE_BY_SIDE else 1
    rows = math.ceil(len(panels) / columns)
    figure = make_subplots(
        rows,
        columns,
        subplot_titles=[plain(panel, 60) for panel in panels],
        horizontal_spacing=0.09,
        vertical_spacing=min(0.2, 110 / max(1, rows * _height(grids))),
    )
    room = int(ACROSS / columns / max(1, widest) / LETTER)
    changes = []
    for number_, panel in enumerate(panels):
        place = (number_ // columns + 1, number_ % columns + 1)
        if panel == CHANGE:
            changes.append(_change(figure, grids[roles[0]], grids[roles[1]], statistic, place))
        else:
            _panel(figure, panel, grids[panel], statistic, (*place, room))
    return _finished(figure, grids, (title, statistic, rows), changes)


def _panel(figure: go.Figure, role: str, grid: WordGrid, statistic: Statistic, place: tuple[int, int, int]) -> None:
    row, column, room = place
    shown = grid.probability if statistic == "probability" else grid.rank
    told = np.array([[plain(word, 24) for word in line] for line in grid.words], dtype=object).reshape(shown.shape)
    written = np.array([[plain(word.removeprefix("·"), room) for word in line] for line in grid.words], dtype=object)
    data = np.stack([shown.astype(object), told, grid.likeliest.astype(object)], axis=-1)
    texts = {"text": written.reshape(shown.shape), "texttemplate": "%{text}", "textfont": {"size": 10}}
    figure.add_heatmap(
        z=_colored(shown, statistic),
        x=_labels(grid.tokens),
        y=list(grid.layers),
        coloraxis="coloraxis",
        xgap=1,
        ygap=1,
        customdata=data,
        meta=describes(role, "", "token", "layer", (statistic, "first word", "its probability")),
        hovertemplate=f"layer %{{y}}, %{{x}}: {statistic} %{{customdata[0]:.3g}}, first is %{{customdata[1]}}"
        "<extra></extra>",
        **(texts if room >= NARROWEST else {}),
        row=row,
        col=column,
    )


def _change(
    figure: go.Figure, before: WordGrid, after: WordGrid, statistic: Statistic, place: tuple[int, int]
) -> np.ndarray:
    one, other = (_colored(getattr(grid, statistic), statistic) for grid in (before, after))
    change = other - one if statistic == "probability" else one - other  # a smaller rank is more knowledge
    same = before.words == after.words
    data = np.stack([change.astype(object), np.where(same, "the same word", "another word")], axis=-1)
    unit = statistic if statistic == "probability" else "factor of ten in rank gained"
    figure.add_heatmap(
        z=change,
        x=_labels(after.tokens),
        y=list(after.layers),
        coloraxis="coloraxis2",
        xgap=1,
        ygap=1,
        customdata=data,
        meta=describes(CHANGE, "", "token", "layer", (unit, "first word")),
        hovertemplate=f"layer %{{y}}, %{{x}}: {unit} %{{customdata[0]:.3g}}, %{{customdata[1]}} first<extra></extra>",
        row=place[0],
        col=place[1],
    )
    return np.asarray(change)


def _finished(
    figure: go.Figure, grids: Mapping[str, WordGrid], words: tuple[str, Statistic, int], changes: Sequence[np.ndarray]
) -> go.Figure:
    title, statistic, rows = words
    figure.update_xaxes(type="category", showgrid=False, tickangle=-60)
    figure.update_yaxes(type="category", showgrid=False)
    figure.update_yaxes(title_text="layer", col=1)
    told = "; ".join(f"{role}: {_best(grid, statistic)}" for role, grid in grids.items())
    alt = f"{title}, the first word in every cell, coloured by the {statistic} of the token asked for. {told}."
    finish(figure, title, alt, 100 + rows * _height(grids))
    bar = {"thickness": 12, "title": {"side": "right"}, "len": 0.5 if changes else 1, "x": 1.02}
    scale: dict[str, Any] = {"colorscale": "Cividis", "cmin": 0, "cmax": 1}
    heading = "probability"
    if statistic == "rank":
        worst = max((float(np.nanmax(grid.rank, initial=1)) for grid in grids.values()), default=1.0)
        most = max(1, math.ceil(math.log10(max(worst, 1))))
        ticks = {"tickvals": [*range(most + 1)], "ticktext": [f"{10**i:,}" for i in range(most + 1)]}
        scale, heading, bar = {"colorscale": "Cividis_r", "cmin": 0, "cmax": most}, "rank", {**bar, **ticks}
    first = {**bar, "y": 0.77 if changes else 0.5, "title": {"text": heading, "side": "right"}}
    figure.update_layout(coloraxis={**scale, "colorbar": first}, margin={"t": 84, "r": 90})
    if changes:
        under = {"thickness": 12, "len": 0.5, "x": 1.02, "y": 0.22, "title": {"text": CHANGE, "side": "right"}}
        figure.update_layout(coloraxis2={**diverging_scale(changes[0]), "colorbar": under})
    return figure.update_annotations(font={"size": 12})


def _best(grid: WordGrid, statistic: Statistic) -> str:
    """Where the answer stands best."""
    shown = grid.probability if statistic == "probability" else -grid.rank
    if not np.isfinite(shown).any():
        return "nothing was read"
    i, j = np.unravel_index(int(np.nanargmax(shown)), shown.shape)
    value = (grid.probability if statistic == "probability" else grid.rank)[i, j]
    word = "highest" if statistic == "probability" else "first"
    return f"{word} {number(float(value))} at layer {grid.layers[i]}, token {j}"


def _colored(values: np.ndarray, statistic: Statistic) -> np.ndarray:
    return values if statistic == "probability" else np.log10(np.maximum(values, 1))


def _labels(tokens: Sequence[str]) -> list[str]:
    return [plain(token, 40) for token in tokens]


def _height(grids: Mapping[str, WordGrid]) -> int:
    return max(150, min(620, 130 + 22 * max(len(grid.layers) for grid in grids.values())))
