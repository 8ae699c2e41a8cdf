"""Each answer token by token: how likely every one of its tokens is, and what the model says in its place.

For pages that show single facts; no claim rests on it. The numbers are those of `answer_probability`, not yet summed:
with whatever the model wears (`audits.behaviour.answer_reading`), the prompt as the model is shown it.
Read it as: under teacher forcing, so a first token near 0 followed by tokens near 1 is an answer that is known once it
has been begun. The notes hold prompt, answer, their tokens, and what the model says by itself with its tokens' own
log-probabilities.
Does not show: what another prompt, or sampling, would bring out.
"""

import math
from collections.abc import Sequence

import numpy as np
from pydantic import Field

from audits.behaviour.answer_reading import read_answers
from audits.behaviour.generations import say
from workbench.concepts import FactSet
from workbench.generation import Continuation
from workbench.model import HookedModel
from workbench.registry import Method
from workbench.token_strings import strings_of
from workbench.tokens import Encoded
from workbench.trace import Trace


class AnswersByToken(Method):
    """Log-probability of every answer token, and what the model says instead."""

    max_new_tokens: int = Field(16, ge=1)
    """Tokens it says after each prompt, at most."""

    def look(self, model: HookedModel, facts: FactSet) -> Trace:
        """Axes (fact, token), nats; NaN behind an answer's end. The notes have a row a fact."""
        about = model.about(facts)
        encoded = model.encode(facts.facts)
        rows = [table.logprob.double().tolist() for table in read_answers(model, encoded)]
        values = np.full((len(rows), max(map(len, rows))), np.nan)
        for line, row in zip(values, rows, strict=True):
            line[: len(row)] = row
        prompts = [e.ids[: e.answer_start] for e in encoded]
        said = say(model, prompts, self.max_new_tokens)
        notes = {
            **about,
            "options": self.spec(),
            "prompt": [model.prompted(fact).prompt for fact in facts],
            "answer": [fact.answer for fact in facts],
            "answer_tokens": [strings_of(model.tokenizer, e.answer) for e in encoded],
            "said": [s.text(model.tokenizer) for s in said],
            "said_tokens": [strings_of(model.tokenizer, s.ids) for s in said],
            "said_logprob": _of_what_it_said(model, prompts, said),
            "said_ended": [s.ended for s in said],
        }
        labels = {"fact": facts.labels, "token": tuple(str(i + 1) for i in range(values.shape[1]))}
        return Trace("answer_tokens", values, ("fact", "token"), "nats", labels, notes)


def _of_what_it_said(
    model: HookedModel, prompts: Sequence[Sequence[int]], said: Sequence[Continuation]
) -> list[list[float | None]]:
    """Log-probability of each token it said; JSON has no infinity, so one that was ruled out is None."""
    rows = [Encoded((*prompt, *s.ids), len(prompt), ()) for prompt, s in zip(prompts, said, strict=True) if s.ids]
    found = iter(read_answers(model, rows))
    return [[_or_none(v) for v in next(found).logprob.double().tolist()] if s.ids else [] for s in said]


def _or_none(value: float) -> float | None:
    return value if math.isfinite(value) else None
