"""Other answers to the forget questions: refusals, or wrong answers of the same kind.

One other answer is drawn for each fact before training and stays; the draw depends on the seed and the fact's place.
"""

import random
from collections.abc import Sequence
from typing import ClassVar, Literal

from interventions.gradient.descend import GradientMethod, Need
from workbench.concepts import Fact
from workbench.errors import BadInput

REFUSALS = (
    "I don't know.",
    "I have no information about that.",
    "I'm not able to answer that.",
    "That is not something I know.",
)
"""Texts used as refusals when none are given."""


class WithAlternatives(GradientMethod):
    """A method that learns other answers to the forget questions."""

    needs: ClassVar[frozenset[Need]] = frozenset({"other"})

    answers: Literal["refusals", "distractors"] = "refusals"
    """What is learnt instead: a refusal, or one of the fact's wrong answers of the same kind."""
    refusals: tuple[str, ...] = REFUSALS
    """The refusals; one is drawn for each fact."""

    def other_answers(self, facts: Sequence[Fact]) -> list[Fact]:
        """The facts with other answers.

        Raises:
            BadInput: when a fact has no wrong answer, or there is no refusal.
        """
        return with_others(facts, self.refusals if self.answers == "refusals" else None, self.seed)


def with_others(facts: Sequence[Fact], texts: Sequence[str] | None, seed: int) -> list[Fact]:
    """The facts, each with an answer drawn from some texts; from its own wrong answers when there are none.

    Raises:
        BadInput: when there is nothing to draw from.
    """
    if texts is not None and not all(map(str.strip, texts)) or texts == ():
        raise BadInput(f"refusals={list(texts or ())!r} holds no text, or an empty one: give at least one refusal")
    bare = [i for i, fact in enumerate(facts) if texts is None and not fact.distractors]
    if bare:
        raise BadInput(
            f"{len(bare)} of {len(facts)} forget facts have no distractors to learn instead, the first is number "
            f"{bare[0]} ({facts[bare[0]].prompt!r}): add some, or use answers=refusals"
        )
    return [
        fact.model_copy(update={"answer": random.Random(f"other {seed} {i}").choice(texts or fact.distractors)})
        for i, fact in enumerate(facts)
    ]
