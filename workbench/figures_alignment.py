"""What the leading directions of a changed down-projection point at: an answer's token, or a value vector of the base.

Drawn from `notes["alignment"]` of the probe `weight_deltas`, which names the sources.
Read it as: a cosine near 1 in colour is an edit made along an answer, or along a value vector of the base that speaks
for one. Grey with `≈` is as near as random tokens (value vectors) come: p of .05 or more.
Does not show: that the model uses the direction, nor changes outside the down-projections. p counts the tokens tried in
one direction, not the number of directions: of many, some fall below .05 by chance.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from workbench.figures_maps import BAR_ROOM
from workbench.figures_style import MUTED, NOISE, SPARE_LOOKS, describes, finish, number, plain

ALIKE = 0.05
"""p from which a cosine is called as near as chance."""

KINDS = {"answer": "nearest answer token", "vector": "nearest value vector of the base"}
"""First word of the keys of an entry -> what was held against the direction."""

MOST = 40
"""Places drawn in one map: those with the largest cosines."""

Entries = Sequence[Mapping[str, Any]]
"""One mapping a direction, as the probe writes them."""


def places_of(alignment: Entries) -> list[str]:
    """The changed places, in the order of the probe."""
    return list(dict.fromkeys(str(entry["site"]) for entry in alignment))


def alignment_map(alignment: Entries) -> go.Figure:
    """Cosine of every leading direction with what it is nearest to: place by direction, a panel a kind.

    Args:
        alignment: `notes["alignment"]` of a trace of `weight_deltas`, not empty.
    """
    best = {
        site: max(float(e["answer_cosine"]) for e in alignment if e["site"] == site) for site in places_of(alignment)
    }
    kept = sorted(best, key=lambda site: -best[site])[:MOST]
    rows = [site for site in reversed(best) if site in kept]
    columns = [str(i + 1) for i in sorted({int(entry["direction"]) for entry in alignment})]
    figure = make_subplots(1, 2, subplot_titles=list(KINDS.values()), shared_yaxes=True, horizontal_spacing=0.04)
    said = [_panel(figure, alignment, kind, (rows, columns)) for kind in KINDS]
    figure.update_xaxes(type="category", showgrid=False, title_text="direction of the change, strongest first")
    figure.update_yaxes(type="category", showgrid=False)
    cut = f" The {MOST} of {len(best)} places with the largest cosines." if len(best) > MOST else ""
    finish(
        figure,
        "Where the directions of the change point",
        f"Cosine of the change's leading directions. {'; '.join(said)}.{cut}",
        max(240, 150 + 26 * len(rows)),
    )
    bar = {"title": {"text": "cosine, without sign", "side": "right"}, "thickness": 12}
    axis = {"colorscale": "Viridis", "cmin": 0, "cmax": 1, "colorbar": bar}
    figure.update_layout(coloraxis=axis, margin={"t": 74, "r": BAR_ROOM})
    return figure.update_annotations(font={"size": 12})


def _panel(figure: go.Figure, alignment: Entries, kind: str, labels: tuple[list[str], list[str]]) -> str:
    """One panel; returns in words what stands out."""
    rows, columns = labels
    shown = np.full((len(rows), len(columns), 3), np.nan)
    for entry in alignment:
        if str(entry["site"]) in rows:
            at = rows.index(str(entry["site"])), columns.index(str(int(entry["direction"]) + 1))
            p = entry[f"{kind}_p"]
            shown[at] = entry[f"{kind}_cosine"], np.nan if p is None else p, entry["share"]
    noise = shown[..., 1] >= ALIKE
    column = list(KINDS).index(kind) + 1
    shared = {"x": columns, "y": [plain(row) for row in rows], "xgap": 1, "ygap": 1, "row": 1, "col": column}
    figure.add_heatmap(
        z=np.where(noise, np.nan, shown[..., 0]),
        coloraxis="coloraxis",
        hoverongaps=False,
        customdata=shown,
        meta=describes(KINDS[kind], "", "direction", "place", (f"{kind} cosine", "p", "share of the change")),
        hovertemplate="%{y}, direction %{x}: cosine %{customdata[0]:.3g}, p %{customdata[1]:.3g}, "
        "%{customdata[2]:.1%} of the change<extra></extra>",
        text=_marks(shown, noise),
        texttemplate="%{text}",
        **shared,
    )
    figure.add_heatmap(
        z=np.where(noise, 1.0, np.nan),
        colorscale=[[0, NOISE], [1, NOISE]],
        showscale=False,
        hoverinfo="skip",
        text=np.where(noise, "≈", ""),
        texttemplate="%{text}",
        textfont={"color": MUTED, "size": 11},
        **shared,
    )
    found = [e for e in alignment if e[f"{kind}_p"] is not None and e[f"{kind}_p"] < ALIKE]
    top = max(found, key=lambda e: float(e[f"{kind}_cosine"]), default=None)
    largest = f", largest {number(float(top[f'{kind}_cosine']))} at {top['site']}" if top is not None else ""
    return f"{KINDS[kind]}: {len(found)} of {len(alignment)} directions nearer than chance{largest}"


def _marks(shown: np.ndarray, noise: np.ndarray) -> np.ndarray:
    """The cosine in each coloured cell."""
    known = np.isfinite(shown[..., 0]) & ~noise
    return np.array(
        [[f"{v:.2f}" if k else "" for v, k in zip(*r, strict=True)] for r in zip(shown[..., 0], known, strict=True)]
    )


def alignment_of(alignment: Entries, site: str) -> go.Figure:
    """One place: each leading direction's cosines, with the token's and the value vector's name and p beside the mark.

    Args:
        alignment: `notes["alignment"]`.
        site: one of `places_of`.
    """
    entries = [entry for entry in alignment if entry["site"] == site]
    names = [f"{int(e['direction']) + 1} ({float(e['share']):.0%} of the change)" for e in entries]
    figure, said = go.Figure(), []
    for (kind, what), look in zip(KINDS.items(), SPARE_LOOKS[:2], strict=True):
        told = [_named(entry, kind) for entry in entries]
        beyond = [e[f"{kind}_p"] is not None and e[f"{kind}_p"] < ALIKE for e in entries]
        figure.add_scatter(
            x=[float(entry[f"{kind}_cosine"]) for entry in entries],
            y=names,
            name=what,
            mode="markers+text",
            text=[plain(word, 60) for word in told],
            textposition="top right" if kind == "answer" else "bottom right",
            textfont={"size": 11},
            cliponaxis=False,
            marker={
                "color": look.color,
                "size": 11,
                "symbol": [look.marker if one else f"{look.marker}-open" for one in beyond],
                "line": {"width": 1.5},
            },
            customdata=[[plain(entry[_WHAT[kind]]), entry[f"{kind}_p"]] for entry in entries],
            meta=describes("", what, "cosine", "direction", ("what", "p")),
            hovertemplate=f"{what} %{{customdata[0]}}: cosine %{{x:.3g}}, p %{{customdata[1]}}<extra></extra>",
        )
        said.append(f"{what} of the first direction {told[0]}, cosine {number(float(entries[0][f'{kind}_cosine']))}")
    figure.update_xaxes(title_text="cosine, without sign", range=[0, 1.3], tickvals=[0, 0.25, 0.5, 0.75, 1])
    places = [len(entries) - 0.4, -0.6]
    figure.update_yaxes(range=places, title_text="direction of the change", type="category")
    finish(
        figure,
        f"What the change at {site} points at",
        f"The change at {site}: {'; '.join(said)}. Open marks are as near as chance.",
        150 + 62 * len(entries),
    )
    return figure.update_layout(showlegend=True)


_WHAT = {"answer": "answer_token", "vector": "vector"}


def _named(entry: Mapping[str, Any], kind: str) -> str:
    what, p = str(entry[_WHAT[kind]]).replace(" ", "·"), entry[f"{kind}_p"]
    return f"{what} (p {number(p)})" if p is not None else f"{what} (no others to compare with)"
