"""Ranks of the answers inside: by layer, and the layer from which on each answer is among the first words.

Read it as: up is more of the answer. Of all facts the line is the median and the band holds the middle half of the
facts (quartiles): how facts differ, not how sure the median is. In the scatter a mark is a fact: on the line it enters
at the same layer in both models, above the line later, and `never` is a place of its own.
Does not show: an answer that leaves again higher up; the curve by layer does. An answer of several tokens
has the rank of its worst.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from workbench.errors import BadInput
from workbench.figures_bands import Band
from workbench.figures_curves import curve
from workbench.figures_style import INK, MUTED, RULE, describes, finish, look_of, number, plain
from workbench.trace import Trace
from workbench.trace_cuts import fact_number

NEVER = "never"
"""Where an answer stands that enters at no layer."""

TOP_K = (1, 5, 10)
"""Ranks up to which an answer may count as entered."""

UNITS = "rank of the answer (1 is first)"

NAMED = 12
"""Layers whose names are written along an axis."""

CELL, APART = 0.76, 0.15
"""Side of the square that facts with the same two layers share, and what lies between two marks where there is room."""

SMALL, LARGE, ROOM = 3, 8, 26
"""Pixels of a mark, and those that the marks of one square share along each side."""


def among(k: int) -> str:
    """Where an answer stands that counts as entered, in words."""
    return "in first place" if k == 1 else f"among the first {k}"


def ranks_of(trace: Trace) -> Trace | None:
    """The ranks (layer, fact) that a lens read, or kept in its notes beside what it read; None where there are none.

    Raises:
        BadInput: when the ranks in the notes do not fit the trace.
    """
    if "layer" not in trace.axes or "fact" not in trace.axes or "position" in trace.axes:
        return None
    if trace.notes.get("options", {}).get("statistic") == "rank":
        return trace
    kept = trace.notes.get("rank")
    if kept is None:
        return None
    try:
        values = np.asarray(kept, dtype=float)
    except (TypeError, ValueError):
        values = np.empty(0)
    if values.shape != (len(trace.labels["layer"]), len(trace.labels["fact"])) or not (values >= 1).all():
        raise BadInput(f"The ranks in the notes of {trace.name!r} do not fit its numbers; read it again")
    labels = {axis: trace.labels[axis] for axis in ("layer", "fact")}
    return replace(trace, values=values, axes=("layer", "fact"), units=UNITS, labels=labels)


def rank_curves(ranks: Mapping[str, Trace], title: str, k: int = 0) -> go.Figure:
    """The rank of the answer by layer, on a logarithmic axis with 1 on top, all roles in one picture.

    Args:
        ranks: role -> ranks (layer, fact), or (layer) of one fact.
        title: what was read.
        k: rank that counts as entered, drawn as a line; 0 for none.

    Raises:
        BadInput: when there is no role.
    """
    if not ranks:
        raise BadInput("There are no ranks to draw: give at least one role")
    figure = go.Figure()
    bands = {role: _middle(trace) for role, trace in ranks.items()}
    ends = ("lower quartile", "upper quartile")
    for position, (role, band) in enumerate(bands.items()):
        curve(figure, role, band, list(band.labels), look_of(role, position), ("layer", "rank"), ends)
    order = list(dict.fromkeys(label for band in bands.values() for label in band.labels))
    if k:
        figure.add_scatter(
            x=[order[0], order[-1]],
            y=[k, k],
            mode="lines",
            name=f"rank {k}",
            line={"color": INK, "width": 1, "dash": "dot"},
            hoverinfo="skip",
        )
    worst = max(float(np.nanmax(np.append(band.high, band.mean), initial=1.0)) for band in bands.values())
    figure.update_xaxes(title_text="layer", type="category", categoryorder="array", categoryarray=order)
    figure.update_yaxes(title_text=UNITS, **_decades(max(worst, float(k))))
    said = "; ".join(_course(role, band) for role, band in bands.items())
    what = "median and middle half of the facts" if any(band.items for band in bands.values()) else "one fact"
    return finish(figure, title, f"{title}, logarithmic, {what}: {said}.")


def entered(ranks: Trace, k: int) -> dict[str, str]:
    """Fact -> the first layer at which its answer is among the first k, or `never`."""
    inside = ranks.values <= k
    first = np.where(inside.any(axis=0), inside.argmax(axis=0), -1)
    names = [*ranks.labels["layer"], NEVER]  # -1 is the last of these
    return {fact: names[int(i)] for fact, i in zip(ranks.labels["fact"], first, strict=True)}


def entry_scatter(ranks: Mapping[str, Trace], k: int, title: str, chosen: str = "") -> go.Figure:
    """The first layer with the answer among the first k, of the first role against each other: a mark a fact.

    Args:
        ranks: role -> ranks (layer, fact); the first is along x, each other has a panel.
        k: rank that counts as entered.
        title: what was read.
        chosen: number of the fact to stand out.

    Raises:
        BadInput: when there are no two roles, or one was read at other layers than the first.
    """
    before, *others = ranks
    layers = ranks[before].labels["layer"]
    if not others or any(ranks[role].labels["layer"] != layers for role in others):
        raise BadInput("Two models read at the same layers are needed to set one against the other")
    columns = min(2, len(others))
    rows = math.ceil(len(others) / columns)
    names = [plain(role, 60) for role in others]
    figure = make_subplots(rows, columns, subplot_titles=names, horizontal_spacing=0.12, vertical_spacing=0.3 / rows)
    places, first, said = [*layers, NEVER], entered(ranks[before], k), []
    for i, role in enumerate(others):
        pairs = {fact: (first[fact], at) for fact, at in entered(ranks[role], k).items() if fact in first}
        place = {"row": i // columns + 1, "col": i % columns + 1}
        figure.add_scatter(
            x=[-0.5, len(layers) - 0.5],
            y=[-0.5, len(layers) - 0.5],
            mode="lines",
            line={"color": MUTED, "width": 1, "dash": "dot"},
            hoverinfo="skip",
            showlegend=False,
            **place,
        )
        _marks(figure, (before, role), pairs, places, (i + 1, chosen), place)
        said.append(f"{role}: {_moves(pairs, places)}")
    ticks = _ticks(places)
    figure.update_xaxes(title_text=f"first layer, {plain(before)}", **ticks)
    figure.update_yaxes(title_text="first layer, after", **ticks)
    alt = f"{title}, the first layer with the answer {among(k)}, {before} against after, a mark a fact. "
    finish(figure, title, f"{alt}{'; '.join(said)}.", 120 + rows * max(270, min(520, 130 + 24 * len(places))))
    return figure.update_layout(margin={"t": 66}).update_annotations(font={"size": 12})


def _middle(ranks: Trace) -> Band:
    """Median and quartiles over the facts; of one fact its ranks alone."""
    labels, values = ranks.labels["layer"], ranks.values
    if values.ndim == 1:
        none = np.full(len(values), np.nan)
        return Band(labels, values.astype(float), none, none, 0, "fact", 0)
    low, middle, high = np.percentile(values, (25, 50, 75), axis=1)
    return Band(labels, middle, low, high, values.shape[1], "fact", 0)


def _decades(worst: float) -> dict[str, Any]:
    """A logarithmic axis from the worst rank up to 1, with a tick a decade and, of few decades, between them."""
    most = max(1.0, math.log10(worst))
    steps = (1, 2, 5) if most <= 2.5 else (1,)
    ticks = [step * 10**i for i in range(math.ceil(most) + 1) for step in steps]
    margin = 0.04 * most
    return {
        "type": "log",
        "range": [most + margin, -margin],
        "tickvals": ticks,
        "ticktext": [f"{tick:,}" for tick in ticks],
    }


def _course(role: str, band: Band) -> str:
    best = int(np.nanargmin(band.mean))
    return (
        f"{role} best {number(float(band.mean[best]))} at layer {band.labels[best]}, "
        f"{number(float(band.mean[-1]))} at the last{band.of_what}"
    )


def _marks(
    figure: go.Figure,
    roles: tuple[str, str],
    pairs: Mapping[str, tuple[str, str]],
    places: Sequence[str],
    look: tuple[int, str],
    place: Mapping[str, int],
) -> None:
    """A mark a fact, spread over the square of its two layers."""
    at, number_, chosen = _spread(pairs, places), *look
    style = look_of(roles[1], number_)
    facts = list(pairs)
    here = [sum(other == pairs[fact] for other in pairs.values()) for fact in facts]
    columns = ("layer before", "layer after", "fact", "facts there")
    figure.add_scatter(
        x=[at[fact][0] for fact in facts],
        y=[at[fact][1] for fact in facts],
        ids=[fact_number(fact) for fact in facts],
        mode="markers",
        name=plain(roles[1]),
        showlegend=False,
        marker={
            "color": style.color,
            "symbol": style.marker,
            "size": [max(SMALL, min(LARGE, ROOM / math.ceil(math.sqrt(n)))) for n in here],
            "opacity": 0.8,
        },
        customdata=[[*pairs[fact], plain(fact, 70), n] for fact, n in zip(facts, here, strict=True)],
        meta=describes(roles[1], "", *columns[:2], columns),
        hovertemplate=f"%{{customdata[2]}}<br>{plain(roles[0])}: %{{customdata[0]}}, {plain(roles[1])}: "
        "%{customdata[1]} (%{customdata[3]} facts there)<extra></extra>",
        **place,
    )
    one = next((fact for fact in facts if fact_number(fact) == chosen), None)
    if one is not None:
        _ring(figure, at[one], place)


def _ring(figure: go.Figure, at: tuple[float, float], place: Mapping[str, int]) -> None:
    """Round the chosen fact."""
    figure.add_scatter(
        x=[at[0]],
        y=[at[1]],
        mode="markers",
        marker={"symbol": "circle-open", "size": 16, "color": INK, "line": {"width": 2.5}},
        hoverinfo="skip",
        showlegend=False,
        **place,
    )


def _spread(pairs: Mapping[str, tuple[str, str]], places: Sequence[str]) -> dict[str, tuple[float, float]]:
    """Facts of one square in rows, as wide apart as there is room."""
    together: dict[tuple[str, str], list[str]] = {}
    for fact, pair in pairs.items():
        together.setdefault(pair, []).append(fact)
    found = {}
    for (before, after), facts in together.items():
        side = math.ceil(math.sqrt(len(facts)))
        step = min(APART, CELL / max(1, side - 1))
        middle = (side - 1) / 2, (math.ceil(len(facts) / side) - 1) / 2
        for i, fact in enumerate(facts):
            across, up = (i % side - middle[0]) * step, (i // side - middle[1]) * step
            found[fact] = places.index(before) + across, places.index(after) + up
    return found


def _ticks(places: Sequence[str]) -> dict[str, Any]:
    """Names along an axis of places, with `never` set apart by a line."""
    every = max(1, math.ceil((len(places) - 1) / NAMED))
    shown = [i for i in range(len(places) - 1) if i % every == 0] + [len(places) - 1]
    return {
        "tickvals": shown,
        "ticktext": [plain(places[i], 20) for i in shown],
        "range": [-0.5, len(places) - 0.5],
        "minor": {"tickvals": [len(places) - 1.5], "showgrid": True, "gridcolor": MUTED, "griddash": "dash"},
        "zeroline": False,
        "mirror": True,
        "linecolor": RULE,
    }


def _moves(pairs: Mapping[str, tuple[str, str]], places: Sequence[str]) -> str:
    """How many facts enter later, earlier, or never any more."""
    steps = [(places.index(before), places.index(after)) for before, after in pairs.values()]
    last = len(places) - 1
    there = [(before, after) for before, after in steps if before < last]
    counts = {
        "never any more": sum(after == last for _, after in there),
        "later": sum(before < after < last for before, after in there),
        "at the same layer": sum(before == after for before, after in there),
        "earlier": sum(after < before for before, after in there),
    }
    told = ", ".join(f"{count} {word}" for word, count in counts.items() if count) or "none"
    new = sum(after < last for before, after in steps if before == last)
    return f"of {len(there)} facts that enter before {told}" + (f"; {new} that did not enter do after" if new else "")
