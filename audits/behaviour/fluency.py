"""Does it still speak like a language model? Word-sequence entropy of what it says, and what the base makes of that.

Source: entropy of 2- and 3-grams as in ROME and RWKU (audits/metrics/ngram_entropy.py). Gibberish: OpenUnlearning asks
a classifier from the hub for P(clean); none is needed here, because the base is a judge of what a fluent model says.
So `gibberish` is the base's mean token loss on what the audited model said after the same prompt.
Read it as: both beside the base's own values on the same prompts: low entropy is repetition, high loss is not language.
A refusal in good English has a moderate loss and a low entropy over many facts, each alone a fluent text.
Does not show: truth; a fluent lie reads well. Nor a model that says nothing (NaN, counted in the notes).
"""

from typing import ClassVar, Literal

import numpy as np
from pydantic import Field

from audits.behaviour.answer_reading import read_answers
from audits.behaviour.answers import fact_trace
from audits.behaviour.generations import Generations, prompt_ids, texts_of, with_text
from audits.metrics.ngram_entropy import ngram_entropy
from workbench.concepts import Fact, FactSet
from workbench.errors import BadInput
from workbench.model import HookedModel
from workbench.registry import Method
from workbench.tokens import Encoded
from workbench.trace import Trace


class NgramEntropy(Method):
    """Entropy of the word pairs and triples the model says."""

    max_new_tokens: int = Field(64, ge=1)
    """Tokens said at most; compare readings of equal length."""

    def look(self, model: HookedModel, facts: FactSet, said: Trace | None = None) -> Trace:
        """Bits a continuation, 0 for one that is empty or says one word over and over.

        Args:
            model: who speaks.
            facts: prompts to go on from.
            said: what `Generations` read of the same model on the same facts; None to generate now.

        Raises:
            BadInput: when `said` is of something else.
        """
        model.about(facts)  # refuses an empty set
        texts = texts_of(model, facts, self.max_new_tokens, said)
        values = np.array([ngram_entropy(text) for text in texts])
        return with_text(fact_trace("ngram_entropy", values, "bits", facts, model, self), text=texts)


class Gibberish(Method):
    """The base's mean token loss on what another model said after the same prompts."""

    donor_from: ClassVar[Literal["against", "checkpoint"]] = "checkpoint"

    max_new_tokens: int = Field(64, ge=1)
    """Tokens said at most."""

    def donor_reading(self) -> Generations:
        """What the audited model says."""
        return Generations(max_new_tokens=self.max_new_tokens)

    def look(self, model: HookedModel, facts: FactSet, donor: Trace) -> Trace:
        """Nats a token of each continuation; NaN for an empty one.

        Args:
            model: the base, which judges.
            facts: the prompts.
            donor: what `Generations` read of the audited model on the same facts.

        Raises:
            BadInput: when the donor's reading is of other facts, or says nothing at all.
        """
        model.about(facts)  # refuses an empty set
        if donor.name != "generations" or donor.notes.get("facts_digest") != facts.digest:
            raise BadInput(
                f"Gibberish reads what another model said on {facts.name}; got {donor.name!r} on "
                f"{donor.notes.get('facts')}. Take it with Generations().look(audited, facts)"
            )
        rows = [self._row(model, fact, said) for fact, said in zip(facts, donor.notes["text"], strict=True)]
        given = [row for row in rows if row is not None]
        if not given:
            raise BadInput(f"{donor.notes.get('model')} says nothing after any prompt of {facts.name}")
        found = iter(read_answers(model, given))
        values = np.array([np.nan if row is None else next(found).loss for row in rows])
        trace = fact_trace("gibberish", values, "nats per token", facts, model, self)
        return with_text(trace, donor=donor.notes.get("model"), empty=len(rows) - len(given))

    def _row(self, model: HookedModel, fact: Fact, said: str) -> Encoded | None:
        prompt = prompt_ids(model, fact)
        text = tuple(model.tokenizer(" " + said, add_special_tokens=False)["input_ids"]) if said else ()
        return Encoded((*prompt, *text), len(prompt), ()) if text else None
