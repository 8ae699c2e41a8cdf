"""Does the model say the answers? Its probability, exact match under greedy decoding, and best of n samples.

Source: probability as in TOFU (Maini et al. 2024, https://arxiv.org/abs/2401.06121), accuracy as exact match of the
greedy continuation, best of n computed exactly from the probability instead of by sampling.
Read it as: what comes out of the mouth when asked this way. Does not show: what the parameters still hold.
"""

from collections.abc import Sequence
from typing import Literal

import numpy as np
from jaxtyping import Float
from pydantic import Field

from audits.behaviour.answer_reading import losses
from audits.metrics.probability import token_probability
from workbench.concepts import FactSet
from workbench.errors import BadInput
from workbench.model import HookedModel
from workbench.registry import Method
from workbench.scoring import Scores, score
from workbench.trace import Trace


def fact_trace(
    name: str, values: Float[np.ndarray, " fact"], units: str, facts: FactSet, model: HookedModel, options: Method
) -> Trace:
    """A trace with one number a fact."""
    notes = {**model.about(facts), "options": options.spec()}
    return Trace(name, values, ("fact",), units, {"fact": facts.labels}, notes)


class AnswerProbability(Method):
    """Probability of the whole answer."""

    normalise: Literal["answer", "token"] = "answer"
    """`answer`: product over the answer's tokens; `token`: their geometric mean, as TOFU and OpenUnlearning have it."""

    published: bool = False
    """With `token`: the end-of-text token is counted as one of the answer's, as TOFU and OpenUnlearning do."""

    def look(self, model: HookedModel, facts: FactSet) -> Trace:
        """One probability a fact, in [0, 1]."""
        if self.published and self.normalise == "answer":
            raise BadInput("published=True is a mean over tokens: use it with normalise='token'")
        if self.published:
            model.about(facts)  # refuses an empty set
            value = token_probability(np.array(losses(model, facts.facts, published=True)))
            return fact_trace("answer_probability", value, "probability", facts, model, self)
        scores = score(model, facts.facts)
        chosen = scores.probability if self.normalise == "answer" else scores.per_token
        return fact_trace("answer_probability", chosen.double().numpy(), "probability", facts, model, self)


class Accuracy(Method):
    """Whether greedy decoding gives the answer, word for word."""

    def look(self, model: HookedModel, facts: FactSet) -> Trace:
        """1 or 0 a fact."""
        value = score(model, facts.facts).greedy
        return fact_trace("accuracy", value.double().numpy(), "share of facts", facts, model, self)


class BestOfN(Method):
    """Probability that at least one of n independent samples at temperature 1 is the answer."""

    n: int = Field(16, ge=1)
    """Samples an attacker draws."""

    def look(self, model: HookedModel, facts: FactSet) -> Trace:
        """One probability a fact: 1 - (1 - p)^n, exact for samples drawn independently."""
        return fact_trace("best_of_n", self.chance(score(model, facts.facts)), "probability", facts, model, self)

    def chance(self, scores: Scores) -> Float[np.ndarray, " fact"]:
        """1 - (1 - p)^n without losing small p."""
        missed: Sequence[float] = np.log1p(-np.minimum(scores.probability.double().numpy(), 1 - 1e-12))
        return -np.expm1(self.n * np.asarray(missed))
