"""Features of a sparse autoencoder: how often each fires on the facts to forget, against the facts to keep.

Read it as: far right and at the bottom is a feature of the forgotten facts; found ones are marked. Several features may
lie on one spot. Features that fire on neither are left out and counted. What was not measured is left out too.
`firing_histogram` counts the same shares; `workbench.figures_feature_changes` draws them before and after.
Does not show: what a feature does; see its attribution in the hover text and its tokens in the notes.
"""

import numpy as np
import plotly.graph_objects as go

from workbench.figures_style import INK, ROLE_LOOKS, Look, describes, finish, number, plain
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


CHANGE = "forget_change"
"""The measure that a run with a donor has: share of forget tokens less the donor's."""

EDGES = (0.0, 0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0)
"""Shares of tokens between which features are counted; the first bar holds those that never fire."""


def before_of(trace: Trace, measure: str = "forget") -> np.ndarray | None:
    """Share of tokens each feature fired on in the donor; None where the run had none."""
    if f"{measure}_change" not in trace.labels["measure"]:
        return None
    now, change = (trace.pick("measure", name).values for name in (measure, f"{measure}_change"))
    return np.asarray(np.maximum(now - change, 0.0), dtype=float)  # the difference of two shares rounds below 0


def fates(trace: Trace) -> dict[str, int]:
    """How many features of the donor's fall silent on the forget facts, fire at most half as often, or are new."""
    before = before_of(trace)
    if before is None:
        return {}
    now = trace.pick("measure", "forget").values
    return {
        "killed": int(((before > 1e-6) & (now <= 0)).sum()),
        "silenced": int(((before > 1e-6) & (now > 0) & (now <= before / 2)).sum()),
        "new": int(((before <= 1e-6) & (now > 0)).sum()),
    }


def firing_histogram(trace: Trace) -> go.Figure:
    """How many features fire how often, on the facts to forget (before and after) and on those to keep."""
    sides = {"forget": trace.pick("measure", "forget").values, "retain": trace.pick("measure", "retain").values}
    before = before_of(trace)
    if before is not None:
        sides = {"forget, before": before, "forget": sides["forget"], "retain": sides["retain"]}
    bins = ["never", *(f"{number(low)}–{number(high)}" for low, high in zip(EDGES, EDGES[1:], strict=False))]
    figure, said = go.Figure(), []
    for name, look in zip(
        sides, (ROLE_LOOKS["base"], ROLE_LOOKS["checkpoint"], ROLE_LOOKS["never taught"])[-len(sides) :], strict=True
    ):
        shares = sides[name][np.isfinite(sides[name])]
        fires = shares[shares > 1e-9]
        counts = [len(shares) - len(fires), *np.histogram(fires, EDGES)[0].tolist()]
        figure.add_bar(
            x=bins,
            y=counts,
            name=name,
            marker={"color": look.color, "pattern": {"shape": PATTERNS[name]}},
            meta=describes("", name, "share of tokens", "features"),
            hovertemplate="%{x} of tokens: %{y} features<extra>" + name + "</extra>",
        )
        mean = float(shares.mean()) if len(shares) else None
        said.append(f"{name}: {len(fires)} of {len(shares)} fire, mean share {number(mean)}")
    figure.update_xaxes(title_text="share of tokens a feature fires on", type="category")
    figure.update_yaxes(title_text="features", type="log", dtick=1)
    return finish(figure, "How often features fire", f"How often features fire; {'; '.join(said)}.", 360)


PATTERNS = {"forget, before": "/", "forget": "", "retain": "."}
"""Told apart without colour too."""


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
