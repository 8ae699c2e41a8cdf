"""Every claim of many audits: all of them as lines, or one claim with its intervals.

Read it as: distances to the control are counted in margins, so 1 is the largest difference that still counts as none,
and up is always worse. A ring and the mark ≡ say that an audit showed its checkpoint equivalent to the reference on
that claim: two one-sided tests, Holm-adjusted over the primary claims of that audit.
Does not show: that one claim outweighs another; nothing is averaged over claims, and nothing is adjusted over audits.
No p belongs to a fail: it rests on the interval.
"""

from collections.abc import Mapping

import plotly.graph_objects as go

from workbench.evidence import AuditReport, Evidence
from workbench.figures_groups import UNKNOWN, Groups
from workbench.figures_style import (
    RING,
    RING_WORDS,
    ROLE_LOOKS,
    ROW,
    STATUS_LOOKS,
    describes,
    finish,
    holm_mark,
    legend_height,
    number,
    plain,
    status_words,
)
from workbench.figures_tradeoff import OTHER, claim_at, less_is_better, mean_of
from workbench.figures_verdict import AXES, TESTS, tests_of

FURTHEST = 12.0
"""Margins shown in the picture of all claims; what lies further is drawn at its edge, with its number in the hover."""


def worse_by(e: Evidence) -> float | None:
    """How far a claim lies on the worse side of its control, in margins; None where it was not measured so."""
    if e.difference is None or not e.margin:
        return None
    return (e.difference.mean if less_is_better(e) else -e.difference.mean) / e.margin


def all_claims(reports: Mapping[str, AuditReport], chosen: str = "", groups: Groups | None = None) -> go.Figure:
    """Every claim of every audit as one line each: how many margins it lies on the worse side of its control.

    Args:
        reports: name -> report.
        chosen: name of the audit to stand out.
        groups: colour, dash and mark of the other audits' lines; grey without them.
    """
    order = {axis: i for i, axis in enumerate(AXES)}
    claims = {e.claim: e for r in reports.values() for e in r.evidence if worse_by(e) is not None}
    names = sorted(claims, key=lambda name: order.get(claims[name].axis, len(order)))
    figure, said, seen = go.Figure(), [], set[str]()
    figure.add_hrect(y0=-1, y1=1, fillcolor="#e4e8ec", line_width=0, layer="below")
    for name in sorted(reports, key=lambda name: name == chosen):  # the chosen one is drawn last, above the others
        here = {e.claim: e for e in reports[name].evidence}
        worse = [worse_by(here[claim]) if claim in here else None for claim in names]
        one = name == chosen
        value = groups.of.get(name, UNKNOWN) if groups else ""
        look = ROLE_LOOKS["checkpoint"] if one else groups.look(value) if groups else OTHER
        figure.add_scatter(
            x=names,
            y=[None if w is None else max(-FURTHEST, min(FURTHEST, w)) for w in worse],
            name="Run A" if one else plain(groups.words(value) if groups else name, 40),
            legendgroup="Run A" if one else value or plain(name),
            mode="lines+markers",
            connectgaps=False,
            opacity=1.0 if one else 0.7 if groups else 0.45,
            line={"color": look.color, "width": 3 if one else 1.4, "dash": "solid" if one else look.dash},
            marker={"symbol": look.marker, "size": 8 if one else 6 if groups else 4},
            showlegend=one or (groups is not None and value not in seen),
            customdata=[[plain(name), w, status_words(here[c]) if c in here else ""] for c, w in zip(names, worse)],  # noqa: B905
            meta=describes("", plain(name), "claim", "margins drawn", ["audit", "margins worse", "status"]),
            hovertemplate="%{customdata[0]}<br>%{x}: %{customdata[1]:.3g} margins, %{customdata[2]}<extra></extra>",
        )
        seen.add("" if one else value)
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
    alt += f" {plain(str(groups))}." if groups else ""
    more = legend_height([str(series.name) for series in figure.data if series.showlegend]) - ROW
    finish(figure, "Every claim of every audit", alt, 440 + more)
    return figure.update_layout(margin={"t": 62 + more})


def one_claim(reports: Mapping[str, AuditReport], claim: str, chosen: str = "") -> go.Figure:
    """One claim's difference to its control in every audit, with interval and margin, best on top."""
    found = {name: e for name, r in reports.items() if (e := claim_at(r, claim)) and e.difference is not None}
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
            y=[plain(name) for name, _, _ in spans],
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
            customdata=[[d.low, d.high, e.compared_with, *tests_of(e)] for _, e, d in spans],
            meta=describes(
                "", f"{look.symbol} {look.word}", "difference", "audit", ["low", "high", "compared with", *TESTS]
            ),
            hovertemplate="%{y}: %{x:.3g} [%{customdata[0]:.3g}, %{customdata[1]:.3g}] to "
            "%{customdata[2]}<extra></extra>",
        )
    ringed = [name for name in names if found[name].equivalent]
    if ringed:
        figure.add_scatter(
            x=[mean_of(found[name].difference) for name in ringed],
            y=[plain(name) for name in ringed],
            name=RING_WORDS,
            mode="markers",
            cliponaxis=False,
            hoverinfo="skip",
            marker=RING,
        )
    ticks = [
        (f"<b>▸ {plain(name, 40)}</b>" if name == chosen else plain(name, 40)) + f"  {holm_mark(found[name])}".rstrip()
        for name in names
    ]
    figure.update_yaxes(
        type="category",
        categoryorder="array",
        categoryarray=[plain(name) for name in names],
        tickvals=[plain(name) for name in names],
        ticktext=ticks,
        range=[-0.7, len(names) - 0.3],
    )
    any_one = found[names[0]]
    figure.update_xaxes(title_text=plain(f"difference to control, {any_one.metric}", 80))
    best, worst = names[-1], names[0]
    alt = (
        f"{any_one.question} {len(found)} audits, 95% interval and margin. Best: {plain(best)} "
        f"{number(mean_of(found[best].difference))}; worst: {plain(worst)} {number(mean_of(found[worst].difference))}."
    )
    if any(e.equivalent is not None for e in found.values()):
        alt += f" Shown equivalent to the reference after Holm: {', '.join(map(plain, ringed)) or 'none'}."
    return finish(figure, any_one.question, alt, 130 + 26 * len(names))
