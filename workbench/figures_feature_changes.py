"""Features of a sparse autoencoder before and after: which changed most, how surely, and how many in which layer.

`feature_changes`: left, the share of the forget tokens at which a feature fires; middle, its mean activation over all
of them; right, the change of the share with its 95% interval (bootstrap over subjects). Dark diamonds have a
false-discovery rate q below .05 (Benjamini-Hochberg over every feature that fires in either model); grey ones do not.
`fates_map`: how many features fell silent, fire at most half as often, or are new, an autoencoder a row.
`activation_histogram`: how strongly one feature fires where it fires, before and after on one axis.
Read it as: with few subjects a feature that belongs to one of them is grey however far it moved, since one subject says
nothing of the next.
Does not show: why firing changed; where the autoencoder explains less than before, that may be why. The features were
picked because they changed most, which the intervals do not correct for (q does).
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from workbench.figures_features import PATTERNS, before_of, fates
from workbench.figures_style import INK, ROLE_LOOKS, describes, finish, number, plain
from workbench.trace import Trace

LINE = "#8c959f"
"""Of what joins two marks, and of marks that are not told from noise."""

SIDES = (("before", "base"), ("after", "checkpoint"))
"""A side and the role whose look it has."""

FATES = ("killed", "silenced", "new")
"""Columns of the map."""

MEAN = "forget_mean"
"""The measure that is a mean activation."""


def change_table(trace: Trace) -> pd.DataFrame:
    """A row a feature, the most changed first: shares before and after, the change, its interval, p and q.

    What the run does not hold is NaN: p and q of features that fire in neither model, intervals of those that are
    neither found nor among the most changed, all of these in older runs.
    """
    now, before = np.asarray(trace.pick("measure", "forget").values, dtype=float), before_of(trace)
    assert before is not None, "ask before_of first"
    table = pd.DataFrame({"feature": trace.labels["feature"], "before": before, "after": now, "change": now - before})
    mean = before_of(trace, MEAN)
    if mean is not None:
        table["mean before"], table["mean after"] = mean, trace.pick("measure", MEAN).values.astype(float)
    tested = (trace.notes.get("change") or {}).get("by_feature") or {}
    for name in ("p", "q"):
        known = dict(zip(map(str, tested.get("feature", ())), tested.get(name, ()), strict=True))
        table[name] = [float(known.get(feature, np.nan)) for feature in table["feature"]]
    intervals = trace.notes.get("intervals") or {}
    for side in ("low", "high"):
        table[side] = [float((intervals.get(feature) or {}).get(side, np.nan)) for feature in table["feature"]]
    return table.iloc[np.argsort(-table["change"].abs().to_numpy(), kind="stable")].reset_index(drop=True)


def tested_words(trace: Trace) -> str:
    """How many features were tested, how, and what so few subjects can show; empty where none was."""
    told = trace.notes.get("change")
    if not isinstance(told, Mapping):
        return ""
    signs = f"all {told['signs']}" if told["all_signs"] else f"{told['signs']} random"
    few = ", so that none could" if told["smallest_p"] >= told["q_below"] else ""
    return (
        f"{told['found']} of {told['tested']} features that fire in either model changed with q < "
        f"{number(told['q_below'])} (paired over {told['facts']} facts of {told['subjects']} subjects, {signs} ways to "
        f"set their signs; the smallest p that so many subjects can give is {number(told['smallest_p'])}{few})"
    )


def feature_changes(trace: Trace, k: int = 20) -> go.Figure:
    """The k features that changed most: share of forget tokens, mean activation, and the change with its interval."""
    every = change_table(trace)
    table = every.head(k)
    names = [f"feature {plain(feature)}" for feature in table["feature"]]  # a bare number would be a place
    panels = ["share of forget tokens"]
    panels += ["mean activation"] if "mean before" in table else []
    panels += ["change of the share, 95% interval"] if table["low"].notna().any() else []
    figure = make_subplots(1, len(panels), shared_yaxes=True, horizontal_spacing=0.035, subplot_titles=panels)
    _pairs(figure, table[["before", "after"]], names, (panels[0], 1))
    if "mean before" in table:
        means = table[["mean before", "mean after"]].set_axis(["before", "after"], axis=1)
        _pairs(figure, means, names, (panels[1], 2))
    if table["low"].notna().any():
        _intervals(figure, table, names, len(panels))
    # The standoff: a mark at 0 lies half outside.
    figure.update_yaxes(type="category", categoryorder="array", categoryarray=names[::-1], ticklabelstandoff=8)
    figure.update_xaxes(rangemode="tozero")
    top = f"{names[0]} from {number(table['before'][0])} to {number(table['after'][0])}" if names else "none"
    said = ", ".join(f"{count} {fate}" for fate, count in fates(trace).items())
    tests = tested_words(trace)
    alt = (
        f"Share of forget tokens before and after, the {len(names)} most changed of {len(every)} features: {top}; "
        f"{said}.{' ' + tests + '.' if tests else ''}"
    )
    height = 150 + 20 * max(len(names), 3)
    finish(figure, f"Most changed features ({len(names)} of {len(every)})", alt, height)
    figure.update_annotations(font={"size": 12})
    # The legend between the figure's title and those of the panels.
    return figure.update_layout(margin={"t": 92}, legend={"yref": "container", "yanchor": "top", "y": 1 - 36 / height})


def _pairs(figure: go.Figure, pairs: pd.DataFrame, names: list[str], panel: tuple[str, int]) -> None:
    """Two marks a feature, joined."""
    units, column = panel
    joined: list[tuple[Any, Any]] = []
    for name, before, after in zip(names, pairs["before"], pairs["after"], strict=True):
        joined += [(before, name), (after, name), (None, name)]
    figure.add_scatter(
        x=[x for x, _ in joined],
        y=[y for _, y in joined],
        mode="lines",
        line={"color": LINE, "width": 2},
        showlegend=False,
        hoverinfo="skip",
        row=1,
        col=column,
    )
    for side, role in SIDES:
        look = ROLE_LOOKS[role]
        figure.add_scatter(
            x=pairs[side],
            y=names,
            name=side,
            legendgroup=side,
            showlegend=column == 1,
            mode="markers",
            cliponaxis=False,
            marker={"color": look.color, "symbol": look.marker, "size": 9},
            meta=describes(units if column > 1 else "", side, units, "feature"),
            hovertemplate="%{y}: %{x:.3g}<extra>" + side + "</extra>",
            row=1,
            col=column,
        )


def _intervals(figure: go.Figure, table: pd.DataFrame, names: list[str], column: int) -> None:
    """The change of the share; what is not told from noise is grey and open."""
    sure = (table["q"] < 0.05).to_numpy()
    for said, here, color, symbol in (
        ("change, q < .05", sure, INK, "diamond"),
        ("change, q ≥ .05 or not tested", ~sure, LINE, "diamond-open"),
    ):
        rows = table[here]
        figure.add_scatter(
            x=rows["change"],
            y=[name for name, one in zip(names, here, strict=True) if one],
            name=said,
            mode="markers",
            cliponaxis=False,
            marker={"color": color, "symbol": symbol, "size": 8},
            error_x={
                "type": "data",
                "symmetric": False,
                "array": (rows["high"] - rows["change"]).to_numpy(),
                "arrayminus": (rows["change"] - rows["low"]).to_numpy(),
                "color": color,
                "thickness": 1.5,
                "width": 3,
            },
            customdata=rows[["low", "high", "p", "q"]].to_numpy(),
            meta=describes("change of the share", said, "change", "feature", ("low", "high", "p", "q")),
            hovertemplate="%{y}: %{x:+.3g} (%{customdata[0]:.3g} to %{customdata[1]:.3g}), p %{customdata[2]:.3g}, "
            "q %{customdata[3]:.3g}<extra></extra>",
            row=1,
            col=column,
        )
    figure.add_vline(x=0, line={"color": INK, "width": 1}, row=1, col=column)


def fates_map(rows: Mapping[str, Trace], chosen: str = "") -> go.Figure:
    """How many features were killed, silenced or are new, an autoencoder a row.

    Args:
        rows: what to call the row -> a reading with a donor; the first at the bottom.
        chosen: the row that is looked at, to be framed.
    """
    counts = np.array([[fates(trace)[fate] for fate in FATES] for trace in rows.values()], dtype=float)
    alive = np.array([_alive(trace) for trace in rows.values()], dtype=float)
    of = np.stack([alive[:, 0], alive[:, 0], alive[:, 1]], axis=1)
    share = np.divide(counts, of, out=np.full(counts.shape, np.nan), where=of > 0)
    names = [plain(name, 48) for name in rows]
    figure = go.Figure(
        go.Heatmap(
            z=share,
            x=list(FATES),
            y=names,
            colorscale="Blues",
            zmin=0,
            zmax=1.6 * (float(np.nanmax(share, initial=0.0)) or 1.0),  # the darkest blues would swallow the words
            showscale=False,
            xgap=4,
            ygap=4,
            text=[[f"{c:.0f} of {n:.0f}" for c, n in zip(*line, strict=True)] for line in zip(counts, of, strict=True)],
            texttemplate="%{text}",
            textfont={"size": 13, "color": INK},
            customdata=np.stack([counts, of, share], axis=-1),
            meta=describes("", "", "became", "autoencoder", ("features", "of", "share")),
            hovertemplate="%{y}, %{x}: %{customdata[0]:.0f} of %{customdata[1]:.0f}<extra></extra>",
        )
    )
    figure.update_xaxes(type="category", showgrid=False)
    figure.update_yaxes(type="category", showgrid=False)
    if chosen in rows and len(rows) > 1:
        at = list(rows).index(chosen)
        line = {"color": INK, "width": 3}
        figure.add_shape(type="rect", xref="paper", x0=0, x1=1, y0=at - 0.49, y1=at + 0.49, line=line)
    told = "; ".join(
        f"{name}: " + ", ".join(f"{c:.0f} {fate}" for c, fate in zip(line, FATES, strict=True))
        for name, line in zip(rows, counts, strict=True)
    )
    alt = f"Features killed, silenced and new on the facts to forget, {len(rows)} autoencoders: {told}."
    finish(figure, "What became of features, layer by layer", alt, 100 + 40 * max(len(names), 2))
    return figure.update_layout(margin={"t": 46, "b": 36})


def _alive(trace: Trace) -> tuple[int, int]:
    """How many features fire on the facts to forget, before and after."""
    before = before_of(trace)
    assert before is not None, "ask before_of first"
    return int((before > 1e-6).sum()), int((trace.pick("measure", "forget").values > 0).sum())


def activation_histogram(trace: Trace, feature: str) -> go.Figure | None:
    """Activations of one feature where it fires on the facts to forget; None where the run keeps none of it."""
    kept = ((trace.notes.get("cards") or {}).get(feature) or {}).get("histogram") or {}
    edges = np.asarray(kept.get("edges", ()), dtype=float)
    if len(edges) < 2:
        return None
    figure, said = go.Figure(), []
    for side, role in SIDES:
        if side not in kept:
            continue
        name = side if "before" in kept else "this model"
        shade = PATTERNS["forget, before" if side == "before" else "forget"]
        figure.add_bar(
            x=(edges[:-1] + edges[1:]) / 2,
            y=kept[side],
            name=name,
            marker={"color": ROLE_LOOKS[role].color, "pattern": {"shape": shade}},
            customdata=np.stack([edges[:-1], edges[1:]], axis=-1),
            meta=describes("", name, "activation", "tokens", ("from", "to")),
            hovertemplate="%{customdata[0]:.3g} to %{customdata[1]:.3g}: %{y} tokens<extra>" + name + "</extra>",
        )
        said.append(f"{name}: fires on {sum(kept[side])} tokens")
    figure.update_xaxes(title_text="activation", rangemode="tozero", range=[0, float(edges[-1])])
    figure.update_yaxes(title_text="tokens", rangemode="tozero")
    alt = (
        f"Activations of feature {feature} on the facts to forget, up to {number(float(edges[-1]))}; {'; '.join(said)}."
    )
    finish(figure, f"How strongly feature {feature} fires, where it fires", alt, 300)
    return figure.update_layout(bargap=0.1, bargroupgap=0)
