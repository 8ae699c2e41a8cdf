"""The lens over one text: layers upwards, tokens to the right, the word that stands first written in each cell.

Read it as: the colour is one scale for all models: probability of the token asked for (0 to 1), its rank (light is
first), the entropy of all words, or how far the words are from the base's (KL divergence, a lower bound). The
difference is after minus before, on a scale of its own; of one text no noise is known, so no cell is grey. The
divergence is a difference itself, so the base has no panel there.
Does not show: words behind the tenth, nor single words of texts longer than a screen (they are left out there).
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
from workbench.figures_style import INK, RULE, describes, diverging_scale, finish, number, plain
from workbench.figures_tokens import visible
from workbench.trace import Trace
from workbench.trace_cuts import layer_name

Statistic = Literal["probability", "rank", "entropy", "kl"]
"""What the colour is."""

WORDS = {
    "probability": "probability",
    "rank": "rank",
    "entropy": "entropy, nats",
    "kl": "KL from the base, nats",
}
"""Statistic -> what stands beside its scale."""

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
    entropy: np.ndarray | None = None
    """(layer, token), nats; None where it was not read."""
    kl: np.ndarray | None = None
    """(layer, token): lower bound of the KL divergence from the base, nats; None where it was not read."""
    listed: np.ndarray | None = None
    """(layer, token, place): the likeliest words in order; None where the first alone was kept."""
    shares: np.ndarray | None = None
    """(layer, token, place): their probabilities."""

    def shown(self, statistic: Statistic) -> np.ndarray | None:
        """(layer, token) of what the colour is; None where it was not read."""
        found: np.ndarray | None = getattr(self, statistic)
        return found

    def places(self, layer: str, token: str) -> list[tuple[str, float]]:
        """The likeliest words of one cell with their probabilities; none where they were not kept."""
        if self.listed is None or self.shares is None or layer not in self.layers or token not in self.tokens:
            return []
        at = self.layers.index(layer), self.tokens.index(token)
        pairs = zip(self.listed[at].tolist(), self.shares[at].tolist(), strict=True)
        return [(word, share) for word, share in pairs if math.isfinite(share)]

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
                **({} if self.entropy is None else {"entropy": float(self.entropy[i, j])}),
                **({} if self.kl is None else {"KL from the base": float(self.kl[i, j])}),
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
        listed, shares = (np.stack([cut[name] for name in _places(cut, of)], axis=-1) for of in ("word", "likeliest"))
        words = _spelt(listed, spelt)
        found = (cut["probability"], cut["rank"], cut["likeliest"], words[..., 0])
        if len(asked) != len(tokens) or words.shape[1] != len(tokens):
            raise ValueError("another number of tokens")
    except (LookupError, TypeError, ValueError, AttributeError) as error:
        raise BadInput(f"The notes of {trace.name!r} do not fit its numbers ({error}); read it again") from None
    names = tuple(f"{i} {token}" for i, token in enumerate(tokens))
    layers = tuple(layer_name(label) for label in trace.labels["layer"])
    kl = cut.get("kl")
    more = (cut.get("entropy"), kl if kl is not None and np.isfinite(kl).any() else None)
    ten = (words, shares) if words.shape[-1] > 1 else (None, None)
    return WordGrid(layers, names, asked, *found, *more, *ten)


def _places(cut: Mapping[str, np.ndarray], of: str) -> list[str]:
    """The measures `word`, `word 2`, `word 3`, ... that there are."""
    numbered = sorted(int(name.removeprefix(f"{of} ")) for name in cut if name.startswith(f"{of} "))
    return [of, *(f"{of} {i}" for i in numbered)]


def _spelt(ids: np.ndarray, spelt: Mapping[str, str]) -> np.ndarray:
    """Words of ids, of the same shape; empty where there is none."""
    flat = np.where(np.isfinite(ids), ids, -1).astype(int).reshape(-1).tolist()
    words = np.empty(len(flat), dtype=object)
    words[:] = [spelt.get(str(i), "") for i in flat]
    return words.reshape(ids.shape)


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

    Raises:
        BadInput: when it was not read of any of the models.
    """
    grids = {role: grid for role, grid in grids.items() if grid.shown(statistic) is not None}
    if not grids:
        raise BadInput(f"There is no {WORDS[statistic].partition(',')[0]} in these readings")
    roles = list(grids)
    panels: list[str] = roles[:]
    alike = (
        statistic != "kl"
        and len(roles) > 1
        and (grids[roles[0]].layers, grids[roles[0]].tokens)
        == (
            grids[roles[1]].layers,
            grids[roles[1]].tokens,
        )
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
    shown = _read(grid, statistic)
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
        hovertext=_lists(grid),
        hovertemplate=f"layer %{{y}}, %{{x}}: {plain(WORDS[statistic].partition(',')[0])} %{{customdata[0]:.3g}}"
        + (", first is %{customdata[1]}" if grid.listed is None else "<br>%{hovertext}")
        + "<extra></extra>",
        **(texts if room >= NARROWEST else {}),
        row=row,
        col=column,
    )


def _change(
    figure: go.Figure, before: WordGrid, after: WordGrid, statistic: Statistic, place: tuple[int, int]
) -> np.ndarray:
    one, other = (_colored(_read(grid, statistic), statistic) for grid in (before, after))
    change = one - other if statistic == "rank" else other - one  # a smaller rank is more knowledge
    same = before.words == after.words
    data = np.stack([change.astype(object), np.where(same, "the same word", "another word")], axis=-1)
    unit = "factor of ten in rank gained" if statistic == "rank" else statistic
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
    alt = f"{title}, the first word in every cell, coloured by {_what(statistic)}. {told}."
    finish(figure, title, alt, 100 + rows * _height(grids))
    bar = {"thickness": 12, "title": {"side": "right"}, "len": 0.5 if changes else 1, "x": 1.02}
    scale: dict[str, Any] = {"colorscale": "Cividis", "cmin": 0, "cmax": 1}
    worst = max(float(np.nanmax(_read(grid, statistic), initial=0)) for grid in grids.values())
    if statistic in ("entropy", "kl"):
        scale["cmax"] = worst or 1.0
    if statistic == "rank":
        most = max(1, math.ceil(math.log10(max(worst, 1))))
        ticks = {"tickvals": [*range(most + 1)], "ticktext": [f"{10**i:,}" for i in range(most + 1)]}
        scale, bar = {"colorscale": "Cividis_r", "cmin": 0, "cmax": most}, {**bar, **ticks}
    first = {**bar, "y": 0.77 if changes else 0.5, "title": {"text": WORDS[statistic], "side": "right"}}
    figure.update_layout(coloraxis={**scale, "colorbar": first}, margin={"t": 84, "r": 90})
    figure.update_layout(
        hoverlabel={"bgcolor": "#ffffff", "bordercolor": RULE, "font": {"color": INK}, "align": "left"}
    )
    if changes:
        under = {"thickness": 12, "len": 0.5, "x": 1.02, "y": 0.22, "title": {"text": CHANGE, "side": "right"}}
        figure.update_layout(coloraxis2={**diverging_scale(changes[0]), "colorbar": under})
    return figure.update_annotations(font={"size": 12})


def _best(grid: WordGrid, statistic: Statistic) -> str:
    """Where the answer stands best, or the most of what the colour is."""
    shown = _read(grid, statistic)
    if not np.isfinite(shown).any():
        return "nothing was read"
    least = statistic == "rank"
    i, j = np.unravel_index(int(np.nanargmin(shown) if least else np.nanargmax(shown)), shown.shape)
    word = "first" if least else "highest"
    return f"{word} {number(float(shown[i, j]))} at layer {grid.layers[i]}, token {j}"


def _read(grid: WordGrid, statistic: Statistic) -> np.ndarray:
    """What the colour is; all NaN where it was not read."""
    shown = grid.shown(statistic)
    return np.full(grid.rank.shape, np.nan) if shown is None else shown


def _what(statistic: Statistic) -> str:
    if statistic in ("probability", "rank"):
        return f"the {statistic} of the token asked for"
    return "the entropy of all words" if statistic == "entropy" else "the KL divergence from the base (a lower bound)"


def _lists(grid: WordGrid) -> np.ndarray | None:
    """The likeliest words of each cell with their probabilities, a line a word."""
    if grid.listed is None or grid.shares is None:
        return None
    told = np.empty(grid.rank.shape, dtype=object)
    for at in np.ndindex(told.shape):
        pairs = zip(grid.listed[at], grid.shares[at], strict=True)
        lines = [f"{plain(word, 14)}  {share:.2g}" for word, share in pairs if math.isfinite(share)]
        told[at] = "<br>".join(lines)
    return told


def _colored(values: np.ndarray, statistic: Statistic) -> np.ndarray:
    return np.log10(np.maximum(values, 1)) if statistic == "rank" else values


def _labels(tokens: Sequence[str]) -> list[str]:
    return [plain(token, 40) for token in tokens]


def _height(grids: Mapping[str, WordGrid]) -> int:
    return max(150, min(620, 130 + 22 * max(len(grid.layers) for grid in grids.values())))
