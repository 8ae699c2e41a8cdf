"""The right answer beside wrong ones: truth ratio and choice accuracy.

Source: TOFU, https://arxiv.org/abs/2401.06121 (truth ratio; formulas and quirks in audits/metrics/truth_ratio.py), and
multiple choice as in MMLU and WMDP (audits/metrics/choice.py). Wrong answers are the fact's distractors; the right one
is worded as they are (`Fact.reworded_answer`) where the source has such a wording. A fact with `choices` is asked with
exactly these. Losses are of the answer without an end-of-text token; TOFU counts one: `published`.
Read it as: a model that knows nothing takes right and wrong answers to be alike. Answers of different length have
different probabilities for that reason alone, so the mean a token is compared.
Does not show: whether it says the answer unasked; few models that were made to refuse have lost the preference.
"""

from collections.abc import Sequence
from typing import Literal

import numpy as np
from jaxtyping import Float

from audits.behaviour.answer_reading import losses, read_answers
from audits.behaviour.answers import fact_trace
from audits.behaviour.generations import with_text
from audits.metrics.choice import chance, choice
from audits.metrics.truth_ratio import Aggregation, truth_ratio, truth_score
from workbench.concepts import LETTERS, Fact, FactSet
from workbench.errors import BadInput
from workbench.model import HookedModel
from workbench.registry import Method
from workbench.trace import Trace


class TruthRatio(Method):
    """Likelihood of the wrong answers beside the right one."""

    score: Literal["ratio"] | Aggregation = "prob_mean"
    """`prob_mean`: share of the right answer, .5 when they are alike. `closer_to_1`, `true_better`: TOFU's for the
    forget set and for utility. `ratio`: R itself, which forget quality compares with a retrained model's."""
    published: bool = False
    """Geometric mean of the wrong answers and the end-of-text token counted, as in TOFU's and OpenUnlearning's code."""

    def look(self, model: HookedModel, facts: FactSet) -> Trace:
        """One number a fact; NaN for a fact without distractors.

        Raises:
            BadInput: when no fact has distractors.
        """
        model.about(facts)  # refuses an empty set
        require_distractors(facts)
        right, wrong = self._losses(model, facts)
        if self.score == "ratio":
            values, units = truth_ratio(right, wrong, self.published), "ratio"
        else:
            values, units = truth_score(right, wrong, self.score, self.published), "truth score"
        return fact_trace("truth_ratio", values, units, facts, model, self)

    def _losses(
        self, model: HookedModel, facts: FactSet
    ) -> tuple[Float[np.ndarray, " fact"], Float[np.ndarray, "fact option"]]:
        told = [(fact.reworded_answer or fact.answer, *fact.distractors) for fact in facts]
        asked = [answering(fact, words) for fact, answers in zip(facts, told, strict=True) for words in answers]
        found, table = iter(losses(model, asked, self.published)), np.full((len(told), max(map(len, told))), np.nan)
        for row, answers in zip(table, told, strict=True):
            row[: len(answers)] = [next(found) for _ in answers]
        return table[:, 0], table[:, 1:]


class ChoiceAccuracy(Method):
    """Whether the right answer is the likeliest of its candidates; a tie counts as guessing among those that tie."""

    normalise: Literal["token", "answer"] = "token"
    """`token`: mean log-probability a token, so that long answers are not at a loss; `answer`: their sum (lm-eval's
    `acc`)."""
    published: bool = False
    """A tie goes to the candidate that stands first, as an argmax gives it; here the right one."""

    def look(self, model: HookedModel, facts: FactSet) -> Trace:
        """Credit a fact, in [0, 1]; NaN for a fact without wrong candidates. The notes give chance.

        Raises:
            BadInput: when no fact has any.
        """
        model.about(facts)  # refuses an empty set
        told = [candidates(fact) for fact in facts]
        if max(map(len, told)) < 2:
            require_distractors(facts)
        asked = [answering(fact, words) for fact, some in zip(facts, told, strict=True) for words in some]
        scores = iter([self._score(t.logprob.double().numpy()) for t in read_answers(model, model.encode(asked))])
        values = np.full(len(facts), np.nan)
        for i, some in enumerate(told):
            own = np.array([next(scores) for _ in some])
            values[i] = choice(own, self.published) if len(some) > 1 else np.nan
        trace = fact_trace("choice", values, "share of facts", facts, model, self)
        counts = [len(some) for some in told if len(some) > 1]
        return with_text(trace, chance=chance(counts))

    def _score(self, logprob: Float[np.ndarray, " token"]) -> float:
        return float(logprob.mean() if self.normalise == "token" else logprob.sum())


def candidates(fact: Fact) -> tuple[str, ...]:
    """The candidates of a fact, the right one first: its choices, or their letters, or answer and distractors."""
    if not fact.choices:
        return fact.candidates
    on_offer: Sequence[str] = fact.choices if fact.answer in fact.choices else LETTERS[: len(fact.choices)]
    return (fact.answer, *(words for words in on_offer if words != fact.answer))


def answering(fact: Fact, answer: str) -> Fact:
    """The fact with another answer."""
    return fact.model_copy(update={"answer": answer, "choices": ()})


def require_distractors(facts: FactSet) -> None:
    """Refuse facts of which none has a wrong answer.

    Raises:
        BadInput: saying what to add.
    """
    if not any(fact.distractors for fact in facts):
        raise BadInput(
            f"No fact of {facts.name!r} has distractors, so there is no wrong answer to compare with; "
            "add some under 'distractors'"
        )
