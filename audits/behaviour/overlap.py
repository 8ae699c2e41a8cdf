"""Does what it says hold the right answer? Exact match, ROUGE-L and BLEU of greedy continuations.

Source: ROUGE-L recall with stemming as TOFU (https://arxiv.org/abs/2401.06121) and OpenUnlearning report it, 200 new
tokens there; BLEU after Papineni et al. 2002. Formulas, libraries and quirks in audits/metrics/rouge.py and bleu.py.
Read it as: for short answers recall says whether the answer's words come at all within the allowed tokens; the more
tokens, the likelier by chance: read never-taught facts beside. Does not show: whether what came is right as a whole.
"""

from typing import Literal

import numpy as np
from pydantic import Field

from audits.behaviour.answers import fact_trace
from audits.behaviour.generations import texts_of, with_text
from audits.metrics.bleu import bleu
from audits.metrics.exact_match import Where, exact_match
from audits.metrics.rouge import rouge
from workbench.concepts import FactSet
from workbench.model import HookedModel
from workbench.registry import Method
from workbench.trace import Trace


class RougeL(Method):
    """ROUGE-L between the answer and what the model says."""

    max_new_tokens: int = Field(32, ge=1)
    """Tokens said at most (TOFU: 200)."""
    measure: Literal["recall", "f1"] = "recall"
    """Share of the answer that came, or its harmonic mean with the share of what came (MUSE)."""
    stem: bool = True
    """Cut words to their stems, as TOFU and OpenUnlearning do and MUSE does not."""

    def look(self, model: HookedModel, facts: FactSet, said: Trace | None = None) -> Trace:
        """One overlap a fact, in [0, 1].

        Args:
            model: who speaks.
            facts: what is asked.
            said: what `Generations` read of the same model on the same facts; None to generate now.

        Raises:
            BadInput: when `said` is of something else.
        """
        model.about(facts)  # refuses an empty set
        texts = texts_of(model, facts, self.max_new_tokens, said)
        found = [rouge(fact.answer, text, self.stem) for fact, text in zip(facts, texts, strict=True)]
        values = np.array([f.rougeL_recall if self.measure == "recall" else f.rougeL_f1 for f in found])
        return with_text(fact_trace("rouge_l", values, "overlap", facts, model, self), text=texts)


class Bleu(Method):
    """BLEU between the answer and what the model says."""

    max_new_tokens: int = Field(32, ge=1)
    """Tokens said at most."""
    longest: int = Field(4, ge=1)
    """Longest word sequence; cut to the shorter of the two texts."""

    def look(self, model: HookedModel, facts: FactSet, said: Trace | None = None) -> Trace:
        """One overlap a fact, in [0, 1]; the arguments are those of `RougeL.look`.

        Raises:
            BadInput: when `said` is of something else.
        """
        model.about(facts)  # refuses an empty set
        texts = texts_of(model, facts, self.max_new_tokens, said)
        values = np.array([bleu(fact.answer, text, self.longest) for fact, text in zip(facts, texts, strict=True)])
        return with_text(fact_trace("bleu", values, "overlap", facts, model, self), text=texts)


class ExactMatch(Method):
    """Whether what the model says is the answer, case, punctuation and articles aside."""

    max_new_tokens: int = Field(32, ge=1)
    """Tokens said at most."""
    where: Where = "start"
    """Whether the answer must be the first words said, stand anywhere in them, or be all of them."""

    def look(self, model: HookedModel, facts: FactSet, said: Trace | None = None) -> Trace:
        """1 or 0 a fact; the arguments are those of `RougeL.look`.

        Raises:
            BadInput: when `said` is of something else.
        """
        model.about(facts)  # refuses an empty set
        texts = texts_of(model, facts, self.max_new_tokens, said)
        values = np.array([exact_match(fact.answer, text, self.where) for fact, text in zip(facts, texts, strict=True)])
        return with_text(fact_trace("exact_match", values, "share of facts", facts, model, self), text=texts)
