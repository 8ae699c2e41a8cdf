"""Short HTML cards that Jupyter shows for a trace, for a claim and for an edit.

Read it as: what it is, how big, where from, the five largest entries. Everything is escaped.
Does not show: the picture (`.plot()`) or all numbers (`.to_frame()`).
"""

import math
from collections.abc import Mapping
from typing import Any, Protocol, runtime_checkable

import numpy as np

from workbench.evidence import ESTIMATES, LEVELS, Evidence
from workbench.figures_bars import bar_axis
from workbench.figures_style import STATUS_LOOKS, number, status_words
from workbench.templating import render
from workbench.trace import Trace

ROWS = 5
LONGEST = 300
"""Characters of one note that are shown."""


@runtime_checkable
class EditLike(Protocol):
    """What `edit_card` reads of any edit; `workbench.edits.Edit` is not imported, because it needs torch."""

    @property
    def fitted_to(self) -> str:
        """Identity of the model; empty for an edit that fits any."""
        ...

    @property
    def kind(self) -> str:
        """`weights`, `hooks` or `prompt`."""
        ...

    @property
    def made_by(self) -> Mapping[str, Any]:
        """Method and options."""
        ...

    @property
    def notes(self) -> Mapping[str, Any]:
        """What the method wants a reader to know."""
        ...


def trace_card(trace: Trace) -> str:
    """A trace as a short HTML table."""
    axis = bar_axis(trace) if trace.axes else ""
    rows: list[tuple[str, str]] = []
    if axis:
        scores = trace.scores(axis)
        best = sorted((i for i in range(len(scores)) if math.isfinite(scores[i])), key=lambda i: -scores[i])[:ROWS]
        rows = [(trace.labels[axis][i], number(float(scores[i]))) for i in best]
    unread = int((~np.isfinite(trace.values)).sum())
    return render(
        "trace_card.html",
        {
            "name": trace.name,
            "units": trace.units,
            "axis": axis,
            "rows": rows,
            "unread": unread,
            "sizes": " × ".join(f"{name} ({len(trace.labels[name])})" for name in trace.axes),
            "notes": _brief(trace.notes),
        },
    )


def evidence_card(evidence: Evidence) -> str:
    """A claim as a short HTML table: the question, how it came out, and every estimate with its interval."""
    e = evidence
    measured = [(name, getattr(e, name)) for name in ESTIMATES if getattr(e, name) is not None]
    return render(
        "evidence_card.html",
        {
            "e": e,
            "status": status_words(e),
            "color": STATUS_LOOKS[e.status].color,
            "needed_for": "" if e.rung is None else LEVELS[e.rung][0],
            "rows": [
                (f"{name} to {e.compared_with}" if name == "difference" and e.compared_with else name, estimate)
                for name, estimate in measured
            ],
        },
    )


def edit_card(edit: EditLike) -> str:
    """An edit as a short HTML table: its kind, what made it, and what it changes."""
    changed = _changed(edit)
    return render(
        "edit_card.html",
        {
            "kind": edit.kind,
            "fitted_to": edit.fitted_to[:12],
            "made_by": _brief(edit.made_by),
            "notes": _brief(edit.notes),
            "changed": changed[: 2 * ROWS],
            "more": max(0, len(changed) - 2 * ROWS),
        },
    )


def _changed(edit: EditLike) -> list[tuple[str, str]]:
    """What an edit touches, a row a tensor, site or template."""
    changes: Mapping[str, Any] = getattr(edit, "changes", {})
    operators: Mapping[Any, Any] = getattr(edit, "operators", {})
    rows = [(name, _entries(change)) for name, change in changes.items()]
    rows += [(str(site), operator.name) for site, operator in operators.items()]
    template = getattr(edit, "template", None)
    return rows if template is None else [*rows, ("template", str(template)[:LONGEST])]


def _entries(change: Any) -> str:
    if hasattr(change, "down"):
        return f"a product of rank {len(change.down)}"
    size = math.prod(change.values.shape)
    return f"all {size:,} entries" if change.index is None else f"{size:,} entries"


def _brief(notes: Mapping[str, Any]) -> list[tuple[str, str]]:
    texts = ((name, str(value)) for name, value in notes.items())
    return [(name, text if len(text) <= LONGEST else text[: LONGEST - 1] + "…") for name, text in texts]
