"""Traces that hold whole states and single heads or neurons: maps above, the strongest single places below.

Read it as: each map is one kind of state, layers upwards, roles of the token to the right, on one symmetric scale; the
bars are the heads and neurons with the largest mean effect, each at the role where it is largest, on an axis of their
own (single places are small beside whole states). Does not show: single facts, or places below the strongest.
"""

from dataclasses import replace

import numpy as np
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from workbench.figures_maps import map_figure
from workbench.figures_style import color_scale, describes, finish, look_of, number, plain
from workbench.figures_subject import mark_subject
from workbench.sites import parse_sites
from workbench.trace import Trace

STRONGEST = 16
"""Single places drawn."""


def mixes_places(trace: Trace) -> bool:
    """Whether a trace by site and role holds single heads or neurons beside, or instead of, whole states."""
    if "site" not in trace.axes or "role" not in trace.axes:
        return False
    return any(site.index is not None for site in parse_sites(trace.labels["site"]))


def places_figure(trace: Trace) -> go.Figure:
    """Maps of the whole states, and bars of the strongest heads and neurons."""
    sites = parse_sites(trace.labels["site"])
    single = [i for i, site in enumerate(sites) if site.index is not None]
    whole = [i for i, site in enumerate(sites) if site.index is None]
    kinds = list(dict.fromkeys(sites[i].part for i in whole))
    maps = _maps(_only(trace, whole)) if whole else []
    found = _strongest(trace, single)
    figure = make_subplots(
        1 + bool(maps),
        max(1, len(maps)),
        specs=_layout(len(maps)),
        row_heights=[0.42, 0.58] if maps else [1],
        vertical_spacing=0.16,
        horizontal_spacing=0.04,
        shared_yaxes=False,
        subplot_titles=[*kinds, "strongest single places"],
    )
    for column, drawn in enumerate(maps, start=1):
        figure.add_trace(drawn, row=1, col=column)
        figure.update_yaxes(type="category", showgrid=False, row=1, col=column, showticklabels=column == 1)
        figure.update_xaxes(type="category", showgrid=False, row=1, col=column)
    if maps:
        figure.update_yaxes(title_text="layer", row=1, col=1)
    figure.add_trace(_bars(found, trace.units), row=1 + bool(maps), col=1)
    figure.update_yaxes(autorange="reversed", type="category", row=1 + bool(maps), col=1)
    figure.update_xaxes(title_text=plain(trace.units, 40), row=1 + bool(maps), col=1)
    best = f"{found[0][0]} at {found[0][1]}, {number(found[0][2])}" if found else "nothing was read"
    alt = (
        f"{trace.name} ({trace.units}), means over facts: of {len(single)} single places the strongest is {best}. "
        "A gap in a map was not read."
    )
    finish(figure, trace.name, alt, (260 if maps else 0) + 140 + 22 * len(found))
    values = np.concatenate([np.asarray(drawn.z, dtype=float).reshape(-1) for drawn in maps] or [np.zeros(1)])
    bar = {"title": {"text": plain(trace.units, 40), "side": "right"}, "thickness": 12, "len": 0.42, "y": 0.79}
    figure.update_layout(coloraxis={**color_scale(values), "colorbar": bar}, margin={"t": 74})
    return mark_subject(figure.update_annotations(font={"size": 12}))


def _only(trace: Trace, kept: list[int]) -> Trace:
    """The trace at some of its sites."""
    labels = {**trace.labels, "site": tuple(trace.labels["site"][i] for i in kept)}
    return replace(trace, values=np.take(trace.values, kept, axis=trace.axis("site")), labels=labels)


def _maps(whole: Trace) -> list[go.Heatmap]:
    """The heat maps of the whole states, one a kind."""
    return [series for series in map_figure(whole).data if series.type == "heatmap"]


def _layout(maps: int) -> list[list[dict[str, int] | None]]:
    bars: list[dict[str, int] | None] = [{"colspan": max(1, maps)}, *[None] * (maps - 1)]
    return [[{} for _ in range(maps)], bars] if maps else [bars]


def _strongest(trace: Trace, single: list[int]) -> list[tuple[str, str, float]]:
    """Site, role and mean effect of the strongest single places, largest first by size; unread ones are left out."""
    mean = trace.mean("fact") if "fact" in trace.axes else trace
    order = [mean.axis("site"), mean.axis("role")]
    values = np.transpose(mean.values, order).astype(float)[single]
    read = np.isfinite(values).any(axis=1)
    single, values = [i for i, there in zip(single, read, strict=True) if there], values[read]
    role = np.where(np.isfinite(values), np.abs(values), -1.0).argmax(axis=1)
    best = values[np.arange(len(single)), role]
    chosen = np.argsort(-np.abs(best), kind="stable")[:STRONGEST]
    return [(trace.labels["site"][single[i]], trace.labels["role"][role[i]], float(best[i])) for i in chosen]


def _bars(found: list[tuple[str, str, float]], units: str) -> go.Bar:
    return go.Bar(
        x=[value for *_, value in found],
        y=[plain(f"{site} · {role}", 60) for site, role, _ in found],
        orientation="h",
        name="single places",
        marker={"color": look_of("checkpoint").color},
        showlegend=False,
        meta=describes("single places", "single places", units, "place"),
        hovertemplate="%{y}: %{x:.3g}<extra></extra>",
    )
