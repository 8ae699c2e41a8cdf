"""In-context re-introduction (ununlearning): facts of the forgotten concept stand before the question.

Source: Shumailov et al. 2024, https://arxiv.org/abs/2407.00106. Variant: k other forget facts with their answers, k
= 0, 1, 2, 4, 8. The asked fact is held out: neither its subject nor its answer stands in its own context, so it
cannot be copied. Never-taught facts are asked in the same way, behind other never-taught facts.
Read it as: the curve over k, forget beside never taught. An answer that comes out for k > 0 is no evidence of stored
knowledge by itself: a model can learn from context what kind of answer is wanted, and a retrained model can too.
Only what exceeds the never-taught facts, and the reference under the same contexts, is.
Does not show: that a fact put into the context can be used there; it always can, so content filters stay needed.
"""

import random
from collections.abc import Iterator, Sequence
from typing import Any, ClassVar

import numpy as np
from pydantic import Field

from audits.attacks.attack import Attack, Told, control_of
from audits.attacks.under import Attempt, said, shares, together
from workbench.concepts import Concept, Fact, FactSet
from workbench.edits import PromptEdit
from workbench.errors import BadInput
from workbench.model import HookedModel
from workbench.trace import Trace


class InContext(Attack):
    """Other forgotten facts before the question."""

    threat: ClassVar[str] = "Somebody can only prompt, and knows other facts of the forgotten concept."
    holds_weights: ClassVar[bool] = False

    shots: tuple[int, ...] = (0, 1, 2, 4, 8)
    """How many facts stand before the question; the last number is the attack, the others its curve."""
    seed: int = Field(0, ge=0)
    """Of the choice of facts; the context of k + 1 facts begins with that of k."""

    def look(self, model: HookedModel, concept: Concept, on_step: Told | None = None) -> Trace:
        """Whether each answer comes out behind k other facts of its set.

        Returns:
            Axes (step, fact): k, and the forget facts with the never-taught ones behind; NaN where a set has fewer than
            k facts of another subject with another answer.
        """
        facts, control = concept.forget, control_of(concept)
        asked = together(facts, control)
        values = np.full((len(self.shots), len(asked)), np.nan)
        prompts: dict[str, list[str | None]] = {}
        for number, shots in enumerate(self.shots):
            behind = [self.behind(facts, control, i, shots) for i in range(len(asked))]
            values[number] = said(model, behind)
            prompts[str(shots)] = [None if fact is None else fact.prompt for fact in behind[: len(facts)]]
            if on_step:
                on_step()
        notes: dict[str, Any] = {**model.about(asked), **self.about(), "n_facts": len(facts)}
        notes["by_shots"] = {str(k): shares(row, len(facts)) for k, row in zip(self.shots, values, strict=True)}
        notes["prompts"] = prompts
        notes["read"] = "behind k > 0 facts an answer is evidence only where it exceeds never-taught facts so asked"
        labels = {"step": tuple(map(str, self.shots)), "fact": asked.labels}
        return Trace("in_context", values, ("step", "fact"), "share of facts", labels, notes)

    def fit(self, concept: Concept, shots: int | None = None) -> list[PromptEdit]:
        """One template a forget fact, in order, for that fact only; its context holds k others.

        Raises:
            BadInput: when a fact has fewer than k others.
        """
        count = max(self.shots) if shots is None else shots
        return [PromptEdit("", self.spec(), template=f"{lines}{{prompt}}") for lines in self._lines(concept, count)]

    def attempts(self, model: HookedModel, concept: Concept) -> Iterator[Attempt]:  # noqa: ARG002
        """One a forget fact."""
        for fact, edit in zip(concept.forget, self.fit(concept), strict=True):
            yield Attempt((edit,), frozenset([fact.prompt]))

    def behind(self, facts: FactSet, control: FactSet | None, number: int, shots: int) -> Fact | None:
        """A fact of `together(facts, control)` behind k others of its own set; None when there are too few."""
        own, i = (facts, number) if number < len(facts) or control is None else (control, number - len(facts))
        lines = context(own.facts, i, shots, self.seed)
        fact = own.facts[i]
        return None if lines is None else fact.model_copy(update={"prompt": lines + fact.prompt})

    def _lines(self, concept: Concept, count: int) -> Iterator[str]:
        for i in range(len(concept.forget)):
            lines = context(concept.forget.facts, i, count, self.seed)
            if lines is None:
                raise BadInput(
                    f"{concept.forget.name} has fewer than {count} facts of other subjects with other answers than "
                    f"fact {i}; ask for fewer shots"
                )
            yield lines


def context(facts: Sequence[Fact], number: int, shots: int, seed: int) -> str | None:
    """So many other facts with their answers, each a sentence and a space behind; None when there are fewer.

    None of them is about the asked subject, names it, has the asked answer or names it in its prompt.
    """
    asked = facts[number]
    others = [
        f for f in facts if asked.subject not in f.prompt and f.subject not in asked.prompt and not _tells(f, asked)
    ]
    if len(others) < shots:
        return None
    random.Random(f"in context {seed} {number}").shuffle(others)
    return "".join(f"{line(fact)} " for fact in others[:shots])


def line(fact: Fact) -> str:
    """A fact as a sentence of the context."""
    return f"{fact.prompt} {fact.answer} ."


def _tells(fact: Fact, asked: Fact) -> bool:
    """Whether a fact would put the asked answer into the context."""
    return asked.answer.casefold() in line(fact).casefold()
