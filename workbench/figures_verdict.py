"""Two pictures of a whole audit: the ladder of levels, and every difference to its control with the margin.

Read it as: a level holds only when every lower one does; a difference counts as none when its interval does not leave
the margin band on the worse side.
Does not show: how good a control is. Each panel of the forest has its own scale, because units differ.
"""

import math
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import plotly.graph_objects as go
from plotly.subplots import make_subplots

from workbench.evidence import LEVELS, AuditReport, Evidence
from workbench.figures_style import (
    INK,
    MUTED,
    RING,
    RING_WORDS,
    STATUS_LOOKS,
    describes,
    finish,
    holm_mark,
    number,
    plain,
    status_words,
)

AXES = ("outputs", "robustness", "decodability", "storage", "recoverability", "privacy", "utility")
"""The order axes are shown in; an axis not named here follows."""

TESTS = ("p of equivalence", "p after Holm")
"""Columns of the table under a forest."""

STATES = {
    "left behind": ("✓", "#009E73", "#e3f4ee"),
    "reached": ("✓", "#009E73", "#e3f4ee"),
    "failed": ("✕", "#D55E00", "#fbeadf"),
    "undecided": ("?", "#0072B2", "#e3eff7"),
    "not run": ("–", "#6e7781", "#f3f4f6"),
    "capped": ("⊘", "#B07800", "#fdf3dc"),
}
"""State of a rung: symbol, line colour, fill. Only U0 can be left behind: standing on it is no achievement."""


@dataclass(frozen=True)
class Rung:
    """One step of the ladder."""

    name: str
    """`U0` to `U5`."""
    words: str
    """What a report at this level may say."""
    needs: str
    """What it takes."""
    state: str
    """A key of `STATES`; `capped`: its own claims hold, but a lower rung or a missing reference stands in the way."""
    counts: str
    """How its claims came out, in words."""
    is_level: bool
    """Whether it is the level of the report."""

    @property
    def symbol(self) -> str:
        """The state as one character."""
        return STATES[self.state][0]


def rungs(report: AuditReport) -> tuple[Rung, ...]:
    """The six rungs with their state."""
    found = []
    for level, (name, words, needs) in enumerate(LEVELS):
        claims = [e for e in report.evidence if e.rung == level]
        state = ("reached" if level or not report.level else "left behind") if level <= report.level else _state(claims)
        found.append(Rung(name, words, needs, state, _counts(claims), level == report.level))
    return tuple(found)


def _state(claims: Sequence[Evidence]) -> str:
    statuses = {e.status for e in claims}
    if "FAIL" in statuses:
        return "failed"
    if not statuses or statuses & {"NOT_RUN", "ERROR"}:
        return "not run"
    return "undecided" if "INCONCLUSIVE" in statuses else "capped"


def _counts(claims: Sequence[Evidence]) -> str:
    if not claims:
        return ""
    held = sum(e.status in ("PASS", "WARN") for e in claims)
    said = [f"{held} of {len(claims)} hold"]
    for status in ("FAIL", "INCONCLUSIVE", "NOT_RUN", "ERROR"):
        count = sum(e.status == status for e in claims)
        if count:
            said.append(f"{count} {STATUS_LOOKS[status].word}")
    return ", ".join(said)


def ladder(report: AuditReport) -> go.Figure:
    """The six rungs as rising steps, each with symbol, state, words and claim counts."""
    figure = go.Figure()
    steps = rungs(report)
    for position, rung in enumerate(steps):
        _step(figure, position, rung)
    figure.add_scatter(
        x=list(range(len(steps))),
        y=[_height(i) for i in range(len(steps))],
        mode="markers",
        marker={"opacity": 0},
        hovertemplate="%{customdata[0]}: %{customdata[3]}<extra></extra>",
        customdata=[[r.name, r.state, r.words, r.needs, r.counts] for r in steps],
        showlegend=False,
        meta=describes("", "", "step", "height", ["level", "state", "words", "needs", "claims"]),
    )
    reached = "; ".join(f"{r.name} {r.words}: {r.state}" + (f" ({r.counts})" if r.counts else "") for r in steps)
    capped = f" Held back by: {report.capped_by}." if report.capped_by else ""
    finish(figure, "Ladder of levels", f"The report stands at {report.verdict}.{capped} {reached}.", 250)
    figure.update_xaxes(visible=False, range=[-0.5, len(steps) - 0.5], fixedrange=True)
    figure.update_yaxes(visible=False, range=[-0.02, _height(len(steps) - 1) + 0.03], fixedrange=True)
    figure.update_layout(margin={"l": 4, "r": 4, "t": 30, "b": 4})
    return figure


def _height(position: int) -> float:
    return 1.0 + 0.11 * position


def _step(figure: go.Figure, position: int, rung: Rung) -> None:
    symbol, line, fill = STATES[rung.state]
    here = rung.is_level
    figure.add_shape(
        type="rect",
        x0=position - 0.48,
        x1=position + 0.48,
        y0=0,
        y1=_height(position),
        fillcolor=fill,
        line={
            "color": INK if here else line,
            "width": 3 if here else 1,
            "dash": "solid" if rung.state in ("reached", "left behind") else "dot",
        },
        layer="below",
    )
    words = "<br>".join(textwrap.wrap(plain(rung.words), 18))
    counts = "<br>".join(textwrap.wrap(plain(rung.counts), 22))
    mark = "<br><b>▲ this report</b>" if here else ""
    text = (
        f"<b>{symbol} {rung.name} {rung.state}</b><br>{words}<br>"
        f"<span style='color:{MUTED};font-size:10px'>{counts}</span>{mark}"
    )
    figure.add_annotation(
        x=position,
        y=_height(position) - 0.05,
        text=text,
        showarrow=False,
        yanchor="top",
        align="center",
        font={"size": 12, "color": INK},
    )


def forest(report: AuditReport) -> go.Figure:
    """The difference to its control of every measured claim, with interval and margin band, a panel an axis."""
    return forest_of(report.evidence)


def forest_of(evidence: Sequence[Evidence]) -> go.Figure:
    """The same for some claims only, whatever report they come from."""
    groups = _groups([e for e in evidence if e.difference is not None])
    left_out = sum(e.value is not None and e.difference is None for e in evidence)
    if not groups:
        return finish(go.Figure(), "Differences to control", "No claim has a measured difference to a control.", 120)
    height = 90 + sum(58 + 30 * len(claims) for claims in groups.values())
    figure = make_subplots(
        len(groups),
        1,
        subplot_titles=[plain(axis) for axis in groups],
        row_heights=[len(claims) + 0.6 for claims in groups.values()],
        vertical_spacing=min(46 / height, 0.9 / max(len(groups) - 1, 1)),
    )
    for row, claims in enumerate(groups.values(), start=1):
        _forest_panel(figure, row, claims)
    _legend(figure, [e for claims in groups.values() for e in claims])
    outside = [e for claims in groups.values() for e in claims if e.status == "FAIL"]
    drawn = sum(len(claims) for claims in groups.values())
    alt = (
        f"Differences to control of {drawn} claims, 95% interval and margin. "
        + ("Failing: " + "; ".join(f"{e.question} {_words(e)}" for e in outside) if outside else "None fails")
        + "."
    )
    alt += equivalence_told([e for claims in groups.values() for e in claims])
    if left_out:
        alt += f" {left_out} measured claims have no control and are not drawn."
    finish(figure, "Differences to control, with margins", alt, height)
    figure.update_annotations(x=0, xanchor="left", font={"size": 13})
    figure.update_layout(
        margin={"t": 84},
        legend={"xref": "container", "x": 0.005, "yref": "container", "y": 1 - 34 / height, "yanchor": "top"},
    )
    return figure


def equivalence_told(evidence: Sequence[Evidence]) -> str:
    """Which claims of one audit were shown equivalent to the reference, as a sentence; empty where none was tested."""
    tested = [e for e in evidence if e.equivalent is not None]
    if not tested:
        return ""
    shown = ", ".join(e.claim for e in tested if e.equivalent) or "none"
    return (
        f" Shown equivalent to the reference (two one-sided tests, after Holm over {tested[0].holm_over} primary "
        f"claims): {shown}; of {len(tested)} tested here."
    )


def _groups(evidence: Sequence[Evidence]) -> dict[str, list[Evidence]]:
    order = [*AXES, *sorted({e.axis for e in evidence} - set(AXES))]
    return {axis: found for axis in order if (found := [e for e in evidence if e.axis == axis])}


def _forest_panel(figure: go.Figure, row: int, claims: Sequence[Evidence]) -> None:
    for status, look in STATUS_LOOKS.items():
        chosen = [e for e in claims if e.status == status]
        if chosen:
            figure.add_scatter(
                **_marks(chosen),
                mode="markers",
                showlegend=False,
                marker={"color": look.color, "symbol": look.marker, "size": 10},
                row=row,
                col=1,
            )
    ring = [e for e in claims if e.equivalent]
    if ring:
        figure.add_scatter(
            x=[d.mean for e in ring if (d := e.difference)],
            y=[e.claim for e in ring],
            mode="markers",
            showlegend=False,
            hoverinfo="skip",
            marker=RING,
            row=row,
            col=1,
        )
    names = [e.claim for e in claims][::-1]
    for position, claim in enumerate(reversed(claims)):
        if claim.margin is not None:
            figure.add_shape(
                type="rect",
                x0=-claim.margin,
                x1=claim.margin,
                y0=position - 0.36,
                y1=position + 0.36,
                fillcolor="#e4e8ec",
                line={"width": 0},
                layer="below",
                row=row,
                col=1,
            )
    ticks = [
        f"{plain(e.question, 62)}  <b>{plain(status_words(e))}</b>" + f" {holm_mark(e)}".rstrip()
        for e in reversed(claims)
    ]
    figure.update_yaxes(
        type="category",
        categoryorder="array",
        categoryarray=names,
        tickvals=names,
        ticktext=ticks,
        range=[-0.6, len(names) - 0.4],
        row=row,
        col=1,
    )
    reach = [
        0.0,
        *(end for e in claims if e.difference is not None for end in (e.difference.low, e.difference.high)),
        *(side * e.margin for e in claims if e.margin is not None for side in (-1, 1)),
    ]
    room = 0.06 * (max(reach) - min(reach)) or 1.0
    figure.update_xaxes(range=[min(reach) - room, max(reach) + room], row=row, col=1)
    figure.add_shape(
        type="line", x0=0, x1=0, y0=-0.6, y1=len(names) - 0.4, line={"color": MUTED, "width": 1}, row=row, col=1
    )


def _marks(claims: Sequence[Evidence]) -> dict[str, Any]:
    """Arguments of a scatter of differences with intervals."""
    found = [(e, e.difference) for e in claims if e.difference is not None]
    return {
        "x": [d.mean for _, d in found],
        "y": [e.claim for e, _ in found],
        "error_x": {
            "type": "data",
            "symmetric": False,
            "array": [d.high - d.mean for _, d in found],
            "arrayminus": [d.mean - d.low for _, d in found],
            "thickness": 1.6,
            "width": 4,
        },
        "customdata": [
            [d.low, d.high, math.nan if e.margin is None else e.margin, e.status, e.compared_with, *tests_of(e)]
            for e, d in found
        ],
        "meta": describes("", "", "difference", "claim", ["low", "high", "margin", "status", "compared with", *TESTS]),
        "hovertemplate": "%{y}: %{x:.3g} [%{customdata[0]:.3g}, %{customdata[1]:.3g}] to %{customdata[4]}, "
        "margin %{customdata[2]:.3g}<extra>%{customdata[3]}</extra>",
    }


def tests_of(evidence: Evidence) -> list[float | None]:
    """What stands under `TESTS`: p of the equivalence test as it came, and after Holm where it was adjusted."""
    adjusted = None if evidence.equivalent is None else evidence.p_equivalence
    return [evidence.p_unadjusted, adjusted]


def _legend(figure: go.Figure, claims: Sequence[Evidence]) -> None:
    """Entries of the legend, drawn as marks without a place."""
    for status, look in STATUS_LOOKS.items():
        if any(e.status == status for e in claims):
            figure.add_scatter(
                x=[None],
                y=[claims[0].claim],
                mode="markers",
                name=f"{look.symbol} {look.word}",
                marker={"color": look.color, "symbol": look.marker, "size": 10},
                row=1,
                col=1,
            )
    if any(e.equivalent for e in claims):
        figure.add_scatter(
            x=[None], y=[claims[0].claim], mode="markers", name=RING_WORDS, marker=RING | {"size": 13}, row=1, col=1
        )
    figure.add_scatter(
        x=[None],
        y=[claims[0].claim],
        mode="markers",
        name="margin",
        marker={"color": "#e4e8ec", "symbol": "square", "size": 14},
        row=1,
        col=1,
    )


def _words(evidence: Evidence) -> str:
    d = evidence.difference
    return "" if d is None else f"{number(d.mean)} [{number(d.low)}, {number(d.high)}] to {evidence.compared_with}"
