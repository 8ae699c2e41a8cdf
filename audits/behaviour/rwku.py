"""RWKU's reading of an answer: ROUGE-L recall of 30 tokens, counted with the package `rouge`, by kind of probe.

Source: RWKU, https://arxiv.org/abs/2406.10890: fill-in-the-blank (level 1), questions (level 2), nine kinds of
adversarial prompts (level 3), and the same on neighbours. The kinds are the facts' (`Fact.kind`): give it the concept's
facts, their `formats`, or its `attack_prompts`; `audits.attacks.rwku_prompts` makes attack prompts from other facts.
The counting is audits/metrics/rwku_rouge.py; `published=False` counts with `rouge-score` without stemming instead, so
that case, punctuation and a repeated word do not matter.
Read it as: comparable with RWKU's tables (recall, there in per cent). Does not show: an answer spelt in another case.
"""

from collections.abc import Mapping

import numpy as np
from pydantic import Field

from audits.behaviour.answers import fact_trace
from audits.behaviour.generations import texts_of, with_text
from audits.metrics.rouge import rouge
from audits.metrics.rwku_rouge import rwku_rouge
from workbench.concepts import FactSet
from workbench.model import HookedModel
from workbench.registry import Method
from workbench.trace import Trace


class RwkuRecall(Method):
    """ROUGE-L recall as in RWKU, with the kind of every probe in the notes."""

    max_new_tokens: int = Field(30, ge=1)
    """Tokens said at most."""
    published: bool = True
    """Count with the package `rouge`, as RWKU does; otherwise with `rouge-score`."""

    def look(self, model: HookedModel, facts: FactSet, said: Trace | None = None) -> Trace:
        """One recall a fact, in [0, 1].

        Args:
            model: who speaks.
            facts: the probes.
            said: what `Generations` read of the same model on the same facts; None to generate now.

        Raises:
            BadInput: when `said` is of something else.
        """
        model.about(facts)  # refuses an empty set
        texts = texts_of(model, facts, self.max_new_tokens, said)
        values = np.array([self._recall(f.answer, text) for f, text in zip(facts, texts, strict=True)])
        trace = fact_trace("rwku_recall", values, "overlap", facts, model, self)
        return with_text(trace, text=texts, kinds=[fact.kind for fact in facts])

    def _recall(self, right: str, text: str) -> float:
        return rwku_rouge(right, text).recall if self.published else rouge(right, text, stem=False).rougeL_recall


def by_kind(trace: Trace) -> Mapping[str, float]:
    """Mean of a stored reading over the probes of each kind, in the order they come."""
    kinds = list(trace.notes["kinds"])
    return {kind: float(np.nanmean(trace.values[[k == kind for k in kinds]])) for kind in dict.fromkeys(kinds)}
