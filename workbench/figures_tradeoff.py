"""Many audits in one picture: what was forgotten against what was kept.

Read it as: on the front no other checkpoint is better on both axes. Stars are the base and the model retrained without
the concept; the dashed box is the margin round the latter. A ring is Run A, a dotted ring an audit that is marked.
Does not show: whether audits were taken with the same options (`comparable` tells them apart by concept, base and
margins), nor that one claim outweighs another; nothing is averaged over claims.
"""

import math
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import plotly.graph_objects as go

from workbench.evidence import AuditReport, Estimate, Evidence
from workbench.figures_groups import Groups
from workbench.figures_labels import annotations, labels
from workbench.figures_style import (
    INK,
    MUTED,
    ROLE_LOOKS,
    ROW,
    Look,
    describes,
    finish,
    legend_height,
    number,
    plain,
    status_words,
)

NAMED = 12
"""With more audits only those on the front and the chosen one bear their name."""

LETTERS = 26
"""Letters of a name in the picture, where that many tell it from the others."""

Point = tuple[float, float]

OTHER = Look("#8c959f", "solid", "circle")
"""An audit that is not the chosen one."""


def comparable(report: AuditReport) -> tuple[str, str, str]:
    """What audits must share to stand in one picture: concept, base and margins, as digests."""
    base = report.roles.get("base")
    return report.concept_digest, base.digest if base else "", report.margins_digest


def less_is_better(e: Evidence) -> bool:
    """Whether a small number is the wish: knowledge left, or loss; not what is kept."""
    return e.axis != "utility" or e.metric.startswith("nats")


Pairs = Mapping[str, tuple[Evidence, Evidence]]
"""Audit -> its two claims."""


def tradeoff(
    reports: Mapping[str, AuditReport],
    x: str,
    y: str,
    chosen: str = "",
    groups: Groups | None = None,
    marked: Collection[str] = (),
) -> go.Figure:
    """Every audit by two claims, better to the right and up, with the front, the base and the reference.

    Args:
        reports: name -> report, of one base and concept.
        x: claim along x, for instance `direct`.
        y: claim along y, for instance `near`.
        chosen: name of the audit to stand out.
        groups: colour and mark of each audit; without them all look alike but the chosen one.
        marked: names of audits that are ringed.
    """
    found = {name: (one, other) for name, r in reports.items() if (one := claim_at(r, x)) and (other := claim_at(r, y))}
    figure, first = go.Figure(), next(iter(found.values()), None)
    if first is None:
        return finish(figure, "Trade-off", f"No audit has measured both {x} and {y}.", 160)
    best = sorted(_front(found), key=lambda name: mean_of(found[name][0].value))
    front = [(mean_of(found[name][0].value), mean_of(found[name][1].value)) for name in best]
    figure.add_scatter(
        x=[at for at, _ in front],
        y=[at for _, at in front],
        name="front",
        mode="lines",
        line={"color": MUTED, "width": 1.5, "dash": "dot", "shape": "linear"},
        hoverinfo="skip",
    )
    for series, look, names in _series(found, chosen, groups):
        _marks(figure, series, look, {n: found[n] for n in names})
    _rings(figure, found, chosen if groups else "", marked)
    stars = _roles(figure, found)
    _box(figure, first)
    for axis, i in ((figure.update_xaxes, 0), (figure.update_yaxes, 1)):
        wish = "lower" if less_is_better(first[i]) else "higher"
        title = plain(f"{first[i].claim}: {first[i].metric} ({wish} is better)", 80)
        axis(title_text=title, range=_range([pair[i] for pair in found.values()]))
    named = _named(reports, best if len(found) > NAMED else list(found), chosen)
    silent = _name(figure, found, [n for n in named if n in found], stars, chosen)
    left = len(reports) - len(found)
    alt = (
        f"{len(found)} audits, {x} against {y}; better is to the right and up. On the front: "
        + "; ".join(f"{plain(n)} ({number(at[0])}, {number(at[1])})" for n, at in zip(best, front, strict=True))
        + "."
        + (f" {plain(str(groups))}." if groups else "")
        + (f" {left} audits lack one of the two and are not drawn." if left else "")
        + (f" No room for the names of {', '.join(map(plain, silent))}; they are in the hover." if silent else "")
    )
    more = legend_height([str(series.name) for series in figure.data]) - ROW
    finish(figure, f"Forgotten against kept: {x} and {y}", alt, 520 + more)
    return figure.update_layout(showlegend=True, margin={"t": 62 + more})


def _series(found: Pairs, chosen: str, groups: Groups | None) -> list[tuple[str, Look, list[str]]]:
    """Name, look and audits of every series that has some."""
    if groups is None:
        looks = {"audits": OTHER, "Run A": ROLE_LOOKS["checkpoint"]}
        every = [(name, look, [n for n in found if (n == chosen) == (name == "Run A")]) for name, look in looks.items()]
    else:
        every = [
            (groups.words(value), groups.look(value), [n for n in found if groups.of.get(n) == value])
            for value in groups.values
        ]
    return [(name, look, names) for name, look, names in every if names]


def _name(figure: go.Figure, found: Pairs, named: Sequence[str], stars: Sequence[Point], chosen: str) -> list[str]:
    """Put the names beside their marks; returns those that found no room."""
    at = {name: (mean_of(one.value), mean_of(other.value)) for name, (one, other) in found.items()}
    order = sorted(named, key=lambda name: name != chosen)
    short = {name: _short(name, at) for name in order}
    axes: Any = figure.layout
    ranges = (axes.xaxis.range, axes.yaxis.range)
    placed = labels({short[name]: at[name] for name in order}, [*at.values(), *stars], ranges)
    points = {short[name]: at[name] for name in order}
    for one in annotations(placed, points, short.get(chosen, "")):
        figure.add_annotation(one)
    return [name for name in order if short[name] not in placed]


def _short(name: str, every: Collection[str]) -> str:
    """The first letters of a name, as long as they tell it from the others."""
    short = name if len(name) <= LETTERS else name[: LETTERS - 1] + "…"
    return short if sum(other[: LETTERS - 1] == name[: LETTERS - 1] for other in every) == 1 else name


def claim_at(report: AuditReport, claim: str) -> Evidence | None:
    """A claim that a report has measured; None for one it has not."""
    return next((e for e in report.evidence if e.claim == claim and e.value is not None), None)


def mean_of(estimate: Estimate | None) -> float:
    """The mean; NaN where there is none."""
    return math.nan if estimate is None else estimate.mean


def _front(found: Pairs) -> list[str]:
    """Audits that none other beats on one claim without losing on the other."""
    goods = {
        name: tuple(-mean_of(e.value) if less_is_better(e) else mean_of(e.value) for e in pair)
        for name, pair in found.items()
    }
    return [
        name
        for name, own in goods.items()
        if not any(all(a >= b for a, b in zip(o, own, strict=True)) and o != own for o in goods.values())
    ]


def _named(reports: Mapping[str, AuditReport], names: Sequence[str], chosen: str) -> list[str]:
    """Audits that bear their name: not those of the base and the reference, which are the stars."""
    stars = {r.roles[role].digest for r in reports.values() for role in ("base", "reference") if role in r.roles}
    own = {name: r.roles["checkpoint"].digest for name, r in reports.items() if "checkpoint" in r.roles}
    return [name for name in dict.fromkeys((*names, chosen)) if name == chosen or own.get(name) not in stars]


def _range(evidence: Sequence[Evidence]) -> list[float]:
    """From the worst to the best end of anything drawn along one axis, with some room."""
    ends = [
        end
        for e in evidence
        for estimate in (e.value, e.before, e.reference)
        if estimate is not None
        for end in (estimate.low, estimate.high)
    ]
    ends += [
        e.reference.mean + side * e.margin
        for e in evidence
        if e.reference is not None and e.margin is not None
        for side in (-1, 1)
    ]
    low, high = min(ends), max(ends)
    room = 0.05 * (high - low) or 0.1
    return [high + room, low - room] if less_is_better(evidence[0]) else [low - room, high + room]


def _marks(figure: go.Figure, series: str, look: Look, found: Pairs) -> None:
    """Points with crosses for their intervals."""
    pairs = list(found.values())
    figure.add_scatter(
        x=[mean_of(e.value) for e, _ in pairs],
        y=[mean_of(e.value) for _, e in pairs],
        error_x=_reach([e for e, _ in pairs], look.color),
        error_y=_reach([e for _, e in pairs], look.color),
        name=plain(series, 40),
        mode="markers",
        cliponaxis=False,
        marker={"color": look.color, "symbol": look.marker, "size": 12 if series == "Run A" else 10},
        ids=[plain(name) for name in found],
        customdata=[[plain(name), status_words(a), status_words(b)] for name, (a, b) in found.items()],
        meta=describes("", series, pairs[0][0].claim, pairs[0][1].claim, ["audit", "status of x", "status of y"]),
        hovertemplate="%{customdata[0]}<br>%{x:.3g} (%{customdata[1]}), %{y:.3g} (%{customdata[2]})<extra>"
        + plain(series, 40)
        + "</extra>",
    )


def _rings(figure: go.Figure, found: Pairs, chosen: str, marked: Collection[str]) -> None:
    """Rings round Run A, where its own mark does not say so, and round the audits that are marked."""
    for words, names, dash in (("Run A", [chosen], "circle-open"), ("in the table", marked, "circle-open-dot")):
        here = [found[name] for name in names if name in found]
        if here:
            figure.add_scatter(
                x=[mean_of(one.value) for one, _ in here],
                y=[mean_of(other.value) for _, other in here],
                name=words,
                mode="markers",
                cliponaxis=False,
                hoverinfo="skip",
                marker={"color": INK, "symbol": dash, "size": 20 if words == "Run A" else 25, "line": {"width": 1.4}},
            )


def _reach(evidence: Sequence[Evidence], color: str) -> dict[str, Any]:
    values = [e.value for e in evidence if e.value is not None]
    return {
        "type": "data",
        "symmetric": False,
        "array": [v.high - v.mean for v in values],
        "arrayminus": [v.mean - v.low for v in values],
        "thickness": 1,
        "width": 0,
        "color": color,
    }


def _roles(figure: go.Figure, found: Pairs) -> list[Point]:
    """Base and reference as stars; audits of one base and reference agree on where they lie. Returns the places."""
    every: list[Point] = []
    for role, field in (("base", "before"), ("reference", "reference")):
        places = {
            (mean_of(getattr(a, field)), mean_of(getattr(b, field)))
            for a, b in found.values()
            if getattr(a, field) is not None and getattr(b, field) is not None
        }
        every += sorted(places)
        if places:
            look = ROLE_LOOKS[role]
            figure.add_scatter(
                x=[x for x, _ in sorted(places)],
                y=[y for _, y in sorted(places)],
                name=role,
                mode="markers",
                cliponaxis=False,
                marker={"color": look.color, "symbol": "star", "size": 15},
                meta=describes("", role, next(iter(found.values()))[0].claim, next(iter(found.values()))[1].claim),
                hovertemplate=f"{role}: %{{x:.3g}}, %{{y:.3g}}<extra></extra>",
            )
    return every


def _box(figure: go.Figure, pair: tuple[Evidence, Evidence]) -> None:
    """The margins round the reference: a checkpoint whose crosses lie inside counts as the same."""
    x, y = pair
    if x.reference is None or y.reference is None or x.margin is None or y.margin is None:
        return
    figure.add_shape(
        type="rect",
        x0=x.reference.mean - x.margin,
        x1=x.reference.mean + x.margin,
        y0=y.reference.mean - y.margin,
        y1=y.reference.mean + y.margin,
        fillcolor="rgba(0,158,115,0.08)",
        line={"color": ROLE_LOOKS["reference"].color, "width": 1, "dash": "dash"},
        layer="below",
    )
