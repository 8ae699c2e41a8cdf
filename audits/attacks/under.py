"""Accuracy with an attack on: the forget facts and, behind them, facts nobody was taught, under the same edits."""

from collections.abc import Sequence

import numpy as np

from audits.behaviour.answers import Accuracy
from workbench.concepts import FactSet
from workbench.edits import Edit
from workbench.model import HookedModel
from workbench.trace import Trace


def under(model: HookedModel, edits: Sequence[Edit], facts: FactSet, control: FactSet | None = None) -> Trace:
    """Accuracy with each edit on; for every fact the one under which it comes out best.

    Args:
        model: unchanged afterwards.
        edits: at least one.
        facts: what the attacker is after.
        control: facts nobody was taught; they stand behind the others (`notes["n_facts"]` says from where).
    """
    asked = facts if control is None else facts.model_copy(update={"facts": facts.facts + control.facts})
    traces = []
    for edit in edits:
        with edit.on(model):
            traces.append(Accuracy().look(model, asked))
    first = traces[0]
    attacks = [{**edit.made_by, **edit.words()} for edit in edits]
    notes = {**first.notes, "attacks": attacks, "n_facts": len(facts)}
    return Trace("accuracy", np.max([t.values for t in traces], axis=0), first.axes, first.units, first.labels, notes)
