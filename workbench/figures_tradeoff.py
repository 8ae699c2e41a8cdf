"""Many audits in one picture: what was forgotten against what was kept, every claim at once, one claim with intervals.

Read it as: on the front no other checkpoint is better on both axes; distances to the control are counted in margins,
so 1 is the largest difference that still counts as none and up is always worse.
Does not show: whether audits were taken with the same options (`comparable` tells them apart by concept, base and
margins), nor that one claim outweighs another; nothing is averaged over claims.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import plotly.graph_objects as go

from workbench.evidence import AuditReport, Estimate, Evidence
from workbench.figures_style import (
    INK,
    MUTED,
    ROLE_LOOKS,
    STATUS_LOOKS,
    Look,
    describes,
    finish,
    number,
    plain,
    status_words,
)
from workbench.figures_verdict import AXES

NAMED = 12
"""With more audits only those on the front and the chosen one bear their name."""

FURTHEST = 12.0
"""Margins shown in the picture of all claims; what lies further is drawn at its edge, with its number in the hover."""

OTHER = Look("#8c959f", "solid", "circle")
"""An audit that is not the chosen one."""


def comparable(report: AuditReport) -> tuple[str, str, str]:
    """What audits must share to stand in one picture: concept, base and margins, as digests."""
    base = report.roles.get("base")
    return report.concept_digest, base.digest if base else "", report.margins_digest


def less_is_better(e: Evidence) -> bool:
    """Whether a small number is the wish: knowledge left, or loss; not what is kept."""
    return e.axis != "utility" or e.metric.startswith("nats")


def tradeoff(reports: Mapping[str, AuditReport], x: str, y: str, chosen: str = "") -> go.Figure:
    """Every audit by two claims, better to the right and up, with the front, the base and the reference.

    Args:
        reports: name -> report, of one base and concept.
        x: claim along x, for instance `direct`.
        y: claim along y, for instance `near`.
        chosen: name of the audit to stand out.
    """
    found = {name: (one, other) for name, r in reports.items() if (one := _at(r, x)) and (other := _at(r, y))}
    figure, first = go.Figure(), next(iter(found.values()), None)
    if first is None:
        return finish(figure, "Trade-off", f"No audit has measured both {x} and {y}.", 160)
    front = _front(found)
    best = sorted(front, key=lambda name: found[name][0].value.mean)  # type: ignore[union-attr]
    figure.add_scatter(
        x=[_mean(found[name][0].value) for name in best],
        y=[_mean(found[name][1].value) for name in best],
        name="front",
        mode="lines",
        line={"color": MUTED, "width": 1.5, "dash": "dot", "shape": "linear"},
        hoverinfo="skip",
    )
    named = _named(reports, front if len(found) > NAMED else list(found), chosen)
    groups = {"audits": [n for n in found if n != chosen], "Run A": [n for n in found if n == chosen]}
    for series, names in groups.items():
        if names:
            _marks(figure, series, {n: found[n] for n in names}, _places(found, named))
    _roles(figure, found)
    _box(figure, first)
    for axis, i in ((figure.update_xaxes, 0), (figure.update_yaxes, 1)):
        wish = "lower" if less_is_better(first[i]) else "higher"
        title = plain(f"{first[i].claim}: {first[i].metric} ({wish} is better)", 80)
        axis(title_text=title, range=_range([pair[i] for pair in found.values()]))
    left = len(reports) - len(found)
    alt = (
        f"{len(found)} audits, {x} against {y}; better is to the right and up. On the front: "
        + "; ".join(
            f"{plain(n)} ({number(_mean(found[n][0].value))}, {number(_mean(found[n][1].value))})" for n in best
        )
        + "."
        + (f" {left} audits lack one of the two and are not drawn." if left else "")
    )
    finish(figure, f"Forgotten against kept: {x} and {y}", alt, 520)
    return figure.update_layout(showlegend=True)


def _at(report: AuditReport, claim: str) -> Evidence | None:
    return next((e for e in report.evidence if e.claim == claim and e.value is not None), None)


def _mean(estimate: Estimate | None) -> float:
    return math.nan if estimate is None else estimate.mean


def _front(found: Mapping[str, tuple[Evidence, Evidence]]) -> list[str]:
    """Audits that none other beats on one claim without losing on the other."""
    goods = {
        name: tuple(-_mean(e.value) if less_is_better(e) else _mean(e.value) for e in pair)
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


def _places(found: Mapping[str, tuple[Evidence, Evidence]], named: Sequence[str]) -> dict[str, str]:
    """Where each name stands: towards the middle, above and below in turn, clear of its neighbours."""
    here = sorted((n for n in named if n in found), key=lambda n: (_mean(found[n][1].value), _mean(found[n][0].value)))
    goods = [_mean(e.value) * (-1 if less_is_better(e) else 1) for e, _ in found.values()]
    middle = (min(goods) + max(goods)) / 2
    sides = {}
    for i, name in enumerate(here):
        e = found[name][0]
        good = _mean(e.value) * (-1 if less_is_better(e) else 1)
        sides[name] = f"{'bottom' if i % 2 == 0 else 'top'} {'left' if good > middle else 'right'}"
    return sides


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


def _marks(
    figure: go.Figure, series: str, found: Mapping[str, tuple[Evidence, Evidence]], places: Mapping[str, str]
) -> None:
    """Points with crosses for their intervals."""
    look = ROLE_LOOKS["checkpoint"] if series == "Run A" else OTHER
    one = series == "Run A"
    pairs = list(found.values())
    figure.add_scatter(
        x=[_mean(e.value) for e, _ in pairs],
        y=[_mean(e.value) for _, e in pairs],
        error_x=_reach([e for e, _ in pairs], look.color),
        error_y=_reach([e for _, e in pairs], look.color),
        name=series,
        mode="markers+text",
        text=[plain(name, 26) if name in places else "" for name in found],
        textposition=[places.get(name, "top left") for name in found],
        textfont={"size": 11, "color": INK},
        cliponaxis=False,
        marker={"color": look.color, "symbol": look.marker, "size": 12 if one else 9},
        customdata=[[plain(name), status_words(a), status_words(b)] for name, (a, b) in found.items()],
        meta=describes("", series, pairs[0][0].claim, pairs[0][1].claim, ["audit", "status of x", "status of y"]),
        hovertemplate="%{customdata[0]}<br>%{x:.3g} (%{customdata[1]}), %{y:.3g} (%{customdata[2]})<extra></extra>",
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


def _roles(figure: go.Figure, found: Mapping[str, tuple[Evidence, Evidence]]) -> None:
    """Base and reference as stars; audits of one base and reference agree on where they lie."""
    for role, field in (("base", "before"), ("reference", "reference")):
        places = {
            (_mean(getattr(a, field)), _mean(getattr(b, field)))
            for a, b in found.values()
            if getattr(a, field) is not None and getattr(b, field) is not None
        }
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


def worse_by(e: Evidence) -> float | None:
    """How far a claim lies on the worse side of its control, in margins; None where it was not measured so."""
    if e.difference is None or not e.margin:
        return None
    return (e.difference.mean if less_is_better(e) else -e.difference.mean) / e.margin


def all_claims(reports: Mapping[str, AuditReport], chosen: str = "") -> go.Figure:
    """Every claim of every audit as one line each: how many margins it lies on the worse side of its control."""
    order = {axis: i for i, axis in enumerate(AXES)}
    claims = {e.claim: e for r in reports.values() for e in r.evidence if worse_by(e) is not None}
    names = sorted(claims, key=lambda name: order.get(claims[name].axis, len(order)))
    figure, said = go.Figure(), []
    figure.add_hrect(y0=-1, y1=1, fillcolor="#e4e8ec", line_width=0, layer="below")
    for name in sorted(reports, key=lambda name: name == chosen):  # the chosen one is drawn last, above the others
        here = {e.claim: e for e in reports[name].evidence}
        worse = [worse_by(here[claim]) if claim in here else None for claim in names]
        one = name == chosen
        look = ROLE_LOOKS["checkpoint"] if one else OTHER
        figure.add_scatter(
            x=names,
            y=[None if w is None else max(-FURTHEST, min(FURTHEST, w)) for w in worse],
            name="Run A" if one else plain(name),
            mode="lines+markers",
            connectgaps=False,
            opacity=1.0 if one else 0.45,
            line={"color": look.color, "width": 3 if one else 1},
            marker={"symbol": look.marker, "size": 8 if one else 4},
            showlegend=one,
            customdata=[[plain(name), w, status_words(here[c]) if c in here else ""] for c, w in zip(names, worse)],  # noqa: B905
            meta=describes("", plain(name), "claim", "margins drawn", ["audit", "margins worse", "status"]),
            hovertemplate="%{customdata[0]}<br>%{x}: %{customdata[1]:.3g} margins, %{customdata[2]}<extra></extra>",
        )
        outside = [f"{claim} by {number(w)}" for claim, w in zip(names, worse, strict=True) if w is not None and w > 1]
        if one:
            said.append(
                f"{plain(name)} is worse than its control by more than a margin in {', '.join(outside) or 'no claim'}"
            )
    figure.update_xaxes(type="category", categoryorder="array", categoryarray=names, tickangle=-40)
    figure.update_yaxes(title_text="margins worse than control", range=[-FURTHEST / 2, FURTHEST + 0.6])
    alt = f"{len(reports)} audits by {len(names)} claims, in margins; the grey band counts as no difference. " + (
        "; ".join(said) + "." if said else "No audit is chosen."
    )
    return finish(figure, "Every claim of every audit", alt, 440)


def one_claim(reports: Mapping[str, AuditReport], claim: str, chosen: str = "") -> go.Figure:
    """One claim's difference to its control in every audit, with interval and margin, best on top."""
    found = {name: e for name, r in reports.items() if (e := _at(r, claim)) and e.difference is not None}
    figure = go.Figure()
    if not found:
        return finish(figure, claim, f"No audit has measured a difference for {claim}.", 140)
    names = sorted(found, key=lambda name: worse_by(found[name]) or 0.0, reverse=True)
    margin = next((e.margin for e in found.values() if e.margin is not None), None)
    if margin is not None:
        figure.add_vrect(x0=-margin, x1=margin, fillcolor="#e4e8ec", line_width=0, layer="below")
    for status, look in STATUS_LOOKS.items():
        here = [(name, found[name], found[name].difference) for name in names if found[name].status == status]
        spans = [(name, e, d) for name, e, d in here if d is not None]
        if not spans:
            continue
        figure.add_scatter(
            x=[d.mean for _, _, d in spans],
            y=[plain(name, 40) for name, _, _ in spans],
            name=f"{look.symbol} {look.word}",
            mode="markers",
            cliponaxis=False,
            marker={"color": look.color, "symbol": look.marker, "size": 10},
            error_x={
                "type": "data",
                "symmetric": False,
                "array": [d.high - d.mean for _, _, d in spans],
                "arrayminus": [d.mean - d.low for _, _, d in spans],
                "thickness": 1.6,
                "width": 4,
            },
            customdata=[[d.low, d.high, e.compared_with, plain(name)] for name, e, d in spans],
            meta=describes("", f"{look.symbol} {look.word}", "difference", "audit", ["low", "high", "compared with"]),
            hovertemplate="%{customdata[3]}: %{x:.3g} [%{customdata[0]:.3g}, %{customdata[1]:.3g}] to "
            "%{customdata[2]}<extra></extra>",
        )
    ticks = [f"<b>▸ {plain(name, 40)}</b>" if name == chosen else plain(name, 40) for name in names]
    figure.update_yaxes(
        type="category",
        categoryorder="array",
        categoryarray=[plain(name, 40) for name in names],
        tickvals=[plain(name, 40) for name in names],
        ticktext=ticks,
        range=[-0.7, len(names) - 0.3],
    )
    any_one = found[names[0]]
    figure.update_xaxes(title_text=plain(f"difference to control, {any_one.metric}", 80))
    best, worst = names[-1], names[0]
    alt = (
        f"{any_one.question} {len(found)} audits, 95% interval and margin. Best: {plain(best)} "
        f"{number(_mean(found[best].difference))}; worst: {plain(worst)} {number(_mean(found[worst].difference))}."
    )
    return finish(figure, any_one.question, alt, 130 + 26 * len(names))
