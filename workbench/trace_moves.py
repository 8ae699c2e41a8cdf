"""How the answer's score moves in one cell of a causal trace: clean, corrupted, and with the state put back.

Cuts of what a trace and its notes hold; nothing is read anew.
Read it as: `restored` is corrupted plus effect. A trace of normalised effects is brought back to its metric's unit, by
the mean total effect it was divided by.
Does not show: copies of a fact where the run kept their mean only (`samples_of` gives None).
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd

from workbench.trace import Trace

STAGES = ("clean", "corrupted", "restored")
"""In the order in which the score moves."""

METRICS = {"probability": "probability", "logprob": "nats", "logit_difference": "logits", "kl": "nats"}
"""Metric of a trace -> unit of its scores."""


def moves_of(cell: Trace, fact: str | None = None) -> Trace | None:
    """The three scores, with axes (stage, fact); None where the notes do not hold them.

    Args:
        cell: a causal trace at one site and token: the axis fact alone.
        fact: label of the only fact wanted; None for all.
    """
    scores = [cell.notes.get(name) for name in ("clean", "corrupted")]
    if cell.axes != ("fact",) or any(not isinstance(row, list) or len(row) != cell.values.size for row in scores):
        return None
    clean, corrupted = (np.array([np.nan if v is None else v for v in row], dtype=float) for row in scores if row)
    restored = corrupted + cell.values * ceiling_of(cell.notes)
    read = np.isfinite(restored)  # the same facts at every stage
    values = np.where(read, np.stack([clean, corrupted, restored]), np.nan)
    labels, subjects = cell.labels["fact"], cell.notes.get("subjects")
    kept = [i for i, label in enumerate(labels) if fact in (None, label)]
    if not read[kept].any():
        return None
    notes: dict[str, Any] = {}
    if isinstance(subjects, list) and len(subjects) >= len(labels):
        notes["subjects"] = [subjects[i] for i in kept]
    named = {"stage": STAGES, "fact": tuple(labels[i] for i in kept)}
    return Trace("moves", values[:, kept], ("stage", "fact"), units_of(cell), named, notes)


def samples_of(trace: Trace, place: tuple[str, str], fact: str) -> pd.DataFrame | None:
    """A row a corrupted copy of one fact: what stood in, and the scores; None where the run kept no single copies.

    Args:
        trace: a causal trace with axes site, role and fact.
        place: site and role.
        fact: label of the fact.
    """
    notes = trace.notes
    rows = {name: notes.get(name) for name in ("instead", "sample_corrupted", "sample_effects")}
    labels = trace.labels.get("fact", ())
    known = all(isinstance(row, list) and len(row) == len(labels) for row in rows.values())
    if not known or fact not in labels:
        return None
    at, (site, role) = labels.index(fact), place
    i, j = trace.labels["site"].index(site), trace.labels["role"].index(role)
    instead, corrupted, effects = (rows[name][at] for name in rows)  # type: ignore[index]  # lists, as `known` says
    if not len(instead) == len(corrupted) == len(effects):
        return None
    low = np.array(corrupted, dtype=float)
    effect = np.array([np.nan if one[i][j] is None else one[i][j] for one in effects], dtype=float)
    table = pd.DataFrame({"in the subject's place": instead, "corrupted": low, "effect": effect})
    return table.assign(restored=low + effect * ceiling_of(notes))


def units_of(trace: Trace) -> str:
    """Unit of the scores, which is not that of normalised effects."""
    metric = dict(trace.notes.get("options") or {}).get("metric")
    return METRICS.get(str(metric), trace.units)


def ceiling_of(notes: Mapping[str, Any]) -> float:
    """What the effects were divided by."""
    total = notes.get("mean_total_effect")
    normalised = dict(notes.get("options") or {}).get("normalised")
    return float(total) if normalised and isinstance(total, int | float) else 1.0
