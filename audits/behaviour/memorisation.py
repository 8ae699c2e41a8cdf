"""Extraction strength and exact memorisation: how much of the answer comes when some of it is given.

Source: formulas and their quirks in audits/metrics/extraction_strength.py and exact_memorisation.py. Facts here end
with their answer, so the end-of-text token that OpenUnlearning puts on and drops again is not there, and exact
memorisation is the same as published; `published` is its floor of 1/n in the extraction strength.
Read it as: 1, the prompt alone brings out all of it word for word. With answers of one token both are greedy accuracy.
Does not show: the answer in other words.
"""

import numpy as np

from audits.behaviour.answer_reading import read_answers
from audits.behaviour.answers import fact_trace
from audits.metrics.exact_memorisation import exact_memorisation
from audits.metrics.extraction_strength import extraction_strength
from workbench.concepts import FactSet
from workbench.model import HookedModel
from workbench.registry import Method
from workbench.trace import Trace


class ExtractionStrength(Method):
    """Share of the answer that need not be given for greedy decoding to say the rest."""

    published: bool = False
    """At least 1/n, as OpenUnlearning's code gives when nothing matches."""

    def look(self, model: HookedModel, facts: FactSet) -> Trace:
        """One strength a fact, in [0, 1]."""
        model.about(facts)  # refuses an empty set
        tables = read_answers(model, model.encode(facts.facts))
        values = np.array([extraction_strength(t.hit.numpy(), self.published) for t in tables])
        return fact_trace("extraction_strength", values, "share of tokens", facts, model, self)


class ExactMemorisation(Method):
    """Share of the answer's tokens that are the most likely one after those before."""

    def look(self, model: HookedModel, facts: FactSet) -> Trace:
        """One share a fact, in [0, 1]."""
        model.about(facts)  # refuses an empty set
        tables = read_answers(model, model.encode(facts.facts))
        values = np.array([exact_memorisation(t.hit.numpy()) for t in tables])
        return fact_trace("exact_memorisation", values, "share of tokens", facts, model, self)
