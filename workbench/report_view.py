"""A report arranged for reading: the values the HTML and Markdown templates print, in their order.

Read it as: nothing here is computed from models; it sorts evidence by axis, formats numbers, and draws pictures.
Does not show: single facts. Data tables are cut at `TABLE_ROWS` and say so.
"""

import itertools
import json
import math
import shlex
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import pandas as pd
import plotly.graph_objects as go
from markupsafe import Markup

from workbench.evidence import LEVELS, AuditReport, Estimate, Evidence, StandardNumber
from workbench.figures import alt_text, forest, ladder, table_of
from workbench.figures_style import STATUS_LOOKS, equivalence_words, number, status_words
from workbench.figures_verdict import AXES, rungs
from workbench.guard_folder import WARNING
from workbench.report_pictures import Key, Picture, RoleTraces, pictures
from workbench.report_words import (
    AXIS_WORDS,
    GLOSSARY,
    LIMITATIONS,
    NATURE,
    NO_REFERENCE,
    NOT_TRIED,
    STATISTICS,
)

TABLE_ROWS = 300
LONGEST = 1200
"""Characters of one budget that are printed."""

ATTACK_AXES = ("robustness", "recoverability", "privacy")


def view_of(report: AuditReport, traces: RoleTraces | None = None, argv: Sequence[str] = ()) -> dict[str, Any]:
    """Everything the templates of a whole report print; `argv` is the command line of the run, if it is known."""
    drawn = pictures(report, traces or {})
    counter = itertools.count(1)
    return head_of(report) | {
        "ladder": _shown(Picture("Ladder of levels", ladder(report)), counter),
        "forest": _shown(Picture("Differences to control", forest(report)), counter),
        "axes": [_axis(axis, report, drawn.get(axis, []), counter) for axis in _axes(report, drawn)],
        "tried": [_claim(e) for e in report.evidence if e.axis in ATTACK_AXES and e.value is not None],
        "untried": [e for e in report.evidence if e.axis in ATTACK_AXES and e.value is None],
        "budgets": _budgets(report, traces or {}),
        "not_tried": NOT_TRIED,
        "standard": [_standard(found) for found in report.standard],
        "statistics": STATISTICS,
        "limitations": LIMITATIONS,
        "notes": [e for e in report.evidence if e.note],
        "glossary": GLOSSARY,
        "options": list(_flat(report.options)),
        "environment": list(_flat(report.environment)),
        "command": _command(report, argv),
        "command_known": bool(argv),
    }


def head_of(report: AuditReport) -> dict[str, Any]:
    """The verdict and what belongs to it, without any picture."""
    level = report.level
    return {
        "report": report,
        "level_name": LEVELS[level][0],
        "needs": report.meaning,
        "next_rung": LEVELS[level + 1] if level + 1 < len(LEVELS) else None,
        "has_reference": report.has_reference,
        "nature": NATURE,
        "guard": WARNING if (who := report.roles.get("checkpoint")) and who.guard else "",
        "no_reference": NO_REFERENCE,
        "rungs": rungs(report),
        "tally": _tally(report),
    }


def _axes(report: AuditReport, drawn: Mapping[str, list[Picture]]) -> list[str]:
    """Axes with claims or pictures, utility last."""
    present = {e.axis for e in report.evidence} | set(drawn)
    return (
        [a for a in AXES if a in present and a != "utility"]
        + sorted(present - set(AXES))
        + [a for a in ("utility",) if a in present]
    )


def _axis(axis: str, report: AuditReport, drawn: list[Picture], counter: Iterator[int]) -> dict[str, Any]:
    title, asks = AXIS_WORDS.get(axis, (axis, ""))
    return {
        "name": axis,
        "title": title,
        "asks": asks,
        "claims": [_claim(e) for e in report.evidence if e.axis == axis],
        "pictures": [_shown(picture, counter) for picture in drawn],
    }


def _claim(evidence: Evidence) -> dict[str, Any]:
    """One row of the claims table."""
    e = evidence
    sample = e.difference or e.value
    return {
        "claim": e.claim,
        "question": e.question,
        "metric": e.metric,
        "where": e.where,
        "note": e.note,
        "why_missing": e.why_missing,
        "value": _estimate(e.value),
        "before": _estimate(e.before),
        "reference": _estimate(e.reference),
        "floor": _estimate(e.floor),
        "difference": _estimate(e.difference),
        "compared_with": e.compared_with,
        "margin": "—" if e.margin is None else f"±{number(e.margin)}",
        "sample": "—" if sample is None else f"{sample.n} / {sample.clusters}",
        "detectable": "—" if e.detectable is None else number(e.detectable),
        "p_equivalence": "" if e.p_equivalence is None else f"equivalence: {equivalence_words(e)}",
        "status": status_words(e),
        "status_class": e.status.lower(),
        "rung": "" if e.rung is None else LEVELS[e.rung][0],
    }


def _estimate(estimate: Estimate | None) -> dict[str, str] | None:
    if estimate is None:
        return None
    return {"mean": number(estimate.mean), "interval": f"[{number(estimate.low)}, {number(estimate.high)}]"}


def _standard(found: StandardNumber) -> dict[str, Any]:
    """One row of the numbers papers report."""
    low, high = found.interval or (None, None)
    return found.model_dump() | {
        "value": {
            "mean": small(found.value),
            "interval": "" if low is None else f"[{small(low)}, {small(high)}]",
        },
        "base": small(found.base),
        "reference": small(found.reference),
    }


def small(value: float | None) -> str:
    """Three digits, however small: p-values go far below what other numbers of a report are rounded to."""
    return "—" if value is None else f"{value:.3g}"


def _shown(picture: Picture, counter: Iterator[int]) -> dict[str, Any]:
    """A picture with its sentence, its JSON for the browser and its data table."""
    shown = {"id": f"picture-{next(counter)}", "title": picture.title, "why": picture.why, "drawn": False}
    if picture.figure is None:
        return shown
    table, layout = table_of(picture.figure), picture.figure.to_dict()["layout"]
    return shown | {
        "drawn": True,
        "alt": alt_text(picture.figure),
        "json": _script_safe(picture.figure),
        "height": int(layout["height"]),
        "columns": [str(c) for c in table.columns],
        "rows": _rows(table),
        "total": len(table),
        "shown": min(len(table), TABLE_ROWS),
    }


def _rows(table: pd.DataFrame) -> list[list[str]]:
    return [[_text(value) for value in row] for row in table.head(TABLE_ROWS).itertuples(index=False)]


def _text(value: Any) -> str:
    if value is None:
        return "not measured"
    if isinstance(value, bool) or not isinstance(value, int | float):
        return str(value)
    return f"{value:.6g}" if math.isfinite(value) else "not measured"


def _script_safe(figure: go.Figure) -> Markup:
    """Figure JSON that cannot end the script element it stands in."""
    text = str(figure.to_json()).replace("&", "\\u0026").replace("<", "\\u003c").replace(">", "\\u003e")
    return Markup(text)  # cannot hold a tag any more


def _budgets(report: AuditReport, traces: RoleTraces) -> list[tuple[str, str]]:
    """Attack -> how it was made, as its readings remember it, else the options of that name."""
    found: dict[str, str] = {}
    for by_key in traces.values():
        for text, trace in by_key.items():
            attack = Key.parse(text).attack
            made = trace.notes.get("attacks") or (
                trace.notes.get("options") if attack == Key.parse(text).instrument else None
            )
            if attack:
                told = _option(made) if made else _option_named(report.options, attack) or "not recorded"
                found[attack] = " ".join(filter(None, (_threat(trace.notes), told)))
    short = {attack: text if len(text) <= LONGEST else text[: LONGEST - 1] + "…" for attack, text in found.items()}
    return sorted(short.items())


def _threat(notes: Mapping[str, Any]) -> str:
    """Who could make the attack, and with what budget, where its reading says so."""
    return f"{notes['threat']} Budget: {notes.get('budget', 'none')}." if "threat" in notes else ""


def _option_named(options: Mapping[str, Any], name: str) -> str | None:
    """The options of one attack, wherever they are nested."""
    for key, value in options.items():
        if key == name:
            return _option(value)
        if isinstance(value, Mapping) and (inside := _option_named(value, name)):
            return inside
    return None


def _flat(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    """Nested options as dotted names."""
    for name, value in values.items():
        if isinstance(value, Mapping) and value:
            yield from _flat(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", "not recorded" if value is None else _option(value)


def _option(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)


def _command(report: AuditReport, argv: Sequence[str]) -> str:
    """The command as it was given, else the one that asks the same with default options."""
    if argv:
        return shlex.join(["workbench", *argv])
    words = ["workbench", "audit", _path(report, "checkpoint"), "--base", _path(report, "base")]
    if "reference" in report.roles:
        words += ["--reference", _path(report, "reference")]
    return shlex.join([*words, "--concept", report.concept])


def _path(report: AuditReport, role: str) -> str:
    return (report.roles[role].path if role in report.roles else "") or role.upper()


def _tally(report: AuditReport) -> list[tuple[str, str, int]]:
    """Status class, words and count, for every status that occurs."""
    found = []
    for status, look in STATUS_LOOKS.items():
        count = sum(e.status == status for e in report.evidence)
        if count:
            found.append((status.lower(), f"{look.symbol} {look.word}", count))
    return found
