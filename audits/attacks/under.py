"""`under`: what a model answers with an attack on: forget facts first, never-taught ones behind them as the control.

An attack is a list of attempts, each some edits that are on together. A fact counts as answered when any attempt
that asks it brings the answer out word for word (greedy decoding). What an attempt was fitted on it must not ask, so
the answers an attack reports are always held out. The control facts get the same attempts, and attacks that train
are fitted on half of the control facts just as on half of the forget facts: what comes out of those was put in.

Read it as: the forget facts' share beside the control's (`notes["n_facts"]` says where the control begins), and both
beside the same attack on the base and on the reference. Does not show: which attempt helped (that is in the notes);
nor what a larger budget would do.
"""

import contextlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float

from workbench.concepts import Fact, FactSet
from workbench.edits import Edit, PromptEdit
from workbench.errors import BadInput
from workbench.model import HookedModel
from workbench.scoring import score
from workbench.trace import Trace


@dataclass(frozen=True)
class Attempt:
    """Edits that are on together, and whom they may be asked about."""

    edits: tuple[Edit, ...]
    """Put on in this order; a later one may be fitted to the model with the earlier ones on."""
    asked: frozenset[str] | None = None
    """Prompts of the facts that may be asked, so none of those the attempt was fitted on; None for all."""

    @contextlib.contextmanager
    def on(self, model: HookedModel) -> Iterator[None]:
        """Put all of them on for the length of a `with` block."""
        with contextlib.ExitStack() as worn:
            for edit in self.edits:
                worn.enter_context(edit.on(model))
            yield

    def asks(self, fact: Fact) -> bool:
        """Whether it may be asked a fact."""
        return self.asked is None or fact.prompt in self.asked

    def said(self) -> list[dict[str, Any]]:
        """Method, options and (of a prompt) the template."""
        return [{**e.made_by, **(e.words() if isinstance(e, PromptEdit) else {})} for e in self.edits]


def under(
    model: HookedModel,
    attempts: Iterable[Edit | Attempt],
    facts: FactSet,
    control: FactSet | None = None,
    notes: Mapping[str, Any] | None = None,
) -> Trace:
    """Whether each answer comes out under the best of some attempts.

    Args:
        model: unchanged afterwards.
        attempts: taken one after the other, so they may be fitted as they are asked for.
        facts: the forget facts.
        control: facts nobody was taught.
        notes: what else the trace is to say of the attack.

    Returns:
        Axis (fact), 1 or 0, the control facts last; NaN for a fact that no attempt may ask. The notes give every
        attempt's shares and which forget facts it `answered`, and the subjects they name (`named`), for templates.

    Raises:
        BadInput: when there is no attempt.
    """
    asked = together(facts, control)
    about, rows, attacks = model.about(asked), [], []
    for given in attempts:
        attempt = given if isinstance(given, Attempt) else Attempt((given,))
        rows.append(answered(model, attempt, asked))
        answered_by = {"answered": as_notes(rows[-1][: len(facts)])}
        attacks.append({"edits": attempt.said(), **shares(rows[-1], len(facts)), **answered_by})
    if not rows:
        raise BadInput("The attack has no attempt: there is nothing to put on the model")
    named = [fact.subject for fact in facts]
    extra = {"attacks": attacks, "n_facts": len(facts), "named": named, **(notes or {})}
    return Trace("accuracy", best(rows), ("fact",), "share of facts", {"fact": asked.labels}, {**about, **extra})


def answered(model: HookedModel, attempt: Attempt, facts: FactSet) -> Float[np.ndarray, " fact"]:
    """1 or 0 a fact with an attempt on; NaN for facts it may not ask."""
    with attempt.on(model):
        return said(model, [fact if attempt.asks(fact) else None for fact in facts])


def said(model: HookedModel, facts: Iterable[Fact | None]) -> Float[np.ndarray, " fact"]:
    """Whether greedy decoding gives each answer, 1 or 0; NaN where there is no fact to ask."""
    asked = list(facts)
    values = np.full(len(asked), np.nan)
    there = [i for i, fact in enumerate(asked) if fact is not None]
    if there:
        values[there] = score(model, [fact for fact in asked if fact is not None]).greedy.double().numpy()
    return values


def together(facts: FactSet, control: FactSet | None) -> FactSet:
    """The facts, then the control facts."""
    return facts if control is None else facts.model_copy(update={"facts": facts.facts + control.facts})


def best(rows: Iterable[Float[np.ndarray, " fact"]]) -> Float[np.ndarray, " fact"]:
    """The highest value of each fact; NaN where every row has NaN."""
    values = np.stack(list(rows))
    highest = np.where(np.isnan(values), -np.inf, values).max(axis=0)
    return np.where(np.isinf(highest), np.nan, highest)


def shares(values: Float[np.ndarray, " fact"], n_facts: int) -> dict[str, float | None]:
    """Mean over the facts and over the control facts; None where none was asked."""
    return {"share": share(values[:n_facts]), "control": share(values[n_facts:])}


def as_notes(values: Float[np.ndarray, " fact"]) -> list[float | None]:
    """One number a fact for the notes; None where it was not asked, because JSON has no NaN."""
    return [None if np.isnan(value) else float(value) for value in values]


def share(values: Float[np.ndarray, " fact"]) -> float | None:
    """Mean of what was asked; None when nothing was."""
    there = values[~np.isnan(values)]
    return float(there.mean()) if len(there) else None
