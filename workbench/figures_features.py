"""Features of a sparse autoencoder: how often each fires on the facts to forget, against the facts to keep.

Read it as: far right and at the bottom is a feature of the forgotten facts; found ones are marked. Several features may
lie on one spot. Features that fire on neither are left out and counted. What was not measured is left out too.
Does not show: what a feature does; see its attribution in the hover text and its tokens in the notes.
"""

import numpy as np
import plotly.graph_objects as go

from workbench.figures_style import INK, Look, describes, finish, number, plain
from workbench.trace import Trace

LOOKS = {"other": Look("#8c959f", "dot", "circle"), "found": Look("#D55E00", "solid", "diamond")}
"""Features that were not found, and those that were."""


def feature_scatter(trace: Trace) -> go.Figure:
    """Share of retain tokens over share of forget tokens, one mark a feature that fires at all."""
    forget, retain = (trace.pick("measure", name).values for name in ("forget", "retain"))
    others = [name for name in trace.labels["measure"] if name not in ("forget", "retain")]
    more = np.stack([trace.pick("measure", name).values for name in others], axis=1)
    found = np.isin(trace.labels["feature"], [str(feature) for feature in trace.notes.get("found", ())])
    fires = (forget > 0) | (retain > 0)
    figure = go.Figure()
    for name, here in (("other", fires & ~found), ("found", fires & found)):
        rows = np.flatnonzero(here & np.isfinite(retain))
        labels = [trace.labels["feature"][i] for i in rows]
        figure.add_scatter(
            x=forget[rows],
            y=retain[rows],
            name=f"{name} ({len(rows)})",
            mode="markers",
            cliponaxis=False,
            marker={"color": LOOKS[name].color, "symbol": LOOKS[name].marker, "size": 8, "opacity": 0.7},
            customdata=[
                [plain(label), *map(number, values.tolist())] for label, values in zip(labels, more[rows], strict=True)
            ],
            meta=describes("", name, "forget", "retain", ["feature", *others]),
            hovertemplate="feature %{customdata[0]}: forget %{x:.3g}, retain %{y:.3g}, "
            + ", ".join(f"{other} %{{customdata[{i + 1}]}}" for i, other in enumerate(others))
            + "<extra></extra>",
        )
    _threshold(figure, trace)
    figure.update_xaxes(title_text="share of forget tokens", rangemode="tozero")
    figure.update_yaxes(title_text="share of retain tokens", rangemode="tozero")
    return finish(figure, _title(trace), _sentence(trace, forget, fires, found), 460)


def _threshold(figure: go.Figure, trace: Trace) -> None:
    """The line that a found feature stays below."""
    below = trace.notes.get("options", {}).get("retain_below")
    if below is not None:
        said = {"text": f"found: below {number(below)}", "showarrow": False, "font": {"size": 11}}
        line = {"color": INK, "width": 1, "dash": "longdashdot"}
        figure.add_hline(y=below, line=line, annotation=said, annotation_position="top right")


def _title(trace: Trace) -> str:
    where = trace.notes.get("site", "a site that is not noted")
    return f"{trace.name} at {where}" + (" (see the warnings)" if trace.notes.get("warnings") else "")


def _sentence(trace: Trace, forget: np.ndarray, fires: np.ndarray, found: np.ndarray) -> str:
    strongest = f", the strongest on {number(float(forget[found].max()))} of the forget tokens" if found.any() else ""
    chance = trace.notes.get("shuffled")
    by_chance = f"; facts dealt at random find as much with p {number(chance['p'])}" if chance else ""
    warned = "".join(f" Warning: {warning}." for warning in trace.notes.get("warnings", ()))
    return (
        f"{trace.name}: {int(found.sum())} of {len(found)} features found{strongest}{by_chance}; "
        f"{int((~fires).sum())} fire on none of these tokens and are not drawn.{warned}"
    )
