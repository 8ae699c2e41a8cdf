"""What the model says: greedy continuations of prompts, kept as text for whatever scores text.

Read it as: the notes hold the texts; the numbers are how many tokens were said. Other readings take a stored one
(`said=trace`), so a model generates once for all of them.
Does not show: what sampling, or another prompt, would bring out.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from pydantic import Field

from audits.behaviour.answers import fact_trace
from workbench.concepts import Fact, FactSet
from workbench.errors import BadInput
from workbench.generation import Continuation, greedy, room
from workbench.model import HookedModel
from workbench.registry import Method
from workbench.tokens import encode_text
from workbench.trace import Trace


class Generations(Method):
    """Greedy continuations of the facts' prompts."""

    max_new_tokens: int = Field(32, ge=1)
    """Tokens said at most; fewer where the model's context ends."""

    def look(self, model: HookedModel, facts: FactSet) -> Trace:
        """Number of tokens said after each prompt; the notes hold `text` and `ended`."""
        model.about(facts)  # refuses an empty set
        said = say(model, [prompt_ids(model, fact) for fact in facts], self.max_new_tokens)
        trace = fact_trace("generations", np.array([float(len(s.ids)) for s in said]), "tokens", facts, model, self)
        return with_text(trace, text=[s.text(model.tokenizer) for s in said], ended=[s.ended for s in said])


def prompt_ids(model: HookedModel, fact: Fact) -> tuple[int, ...]:
    """A fact's prompt as the model is shown it."""
    return encode_text(model.tokenizer, model.prompted(fact).prompt)


def say(model: HookedModel, prompts: Sequence[Sequence[int]], max_new_tokens: int) -> list[Continuation]:
    """Continue prompts by as many tokens as are asked for, or as the model's context leaves room for."""
    left = room(model, prompts)
    return greedy(model, prompts, max_new_tokens if left is None else min(max_new_tokens, max(1, left)))


def texts_of(model: HookedModel, facts: FactSet, max_new_tokens: int, said: Trace | None) -> list[str]:
    """What the model says after each prompt: generated now, or taken from a stored reading.

    Raises:
        BadInput: when the stored reading is of another model, of other facts, or of another length.
    """
    if said is None:
        said = Generations(max_new_tokens=max_new_tokens).look(model, facts)
    told = said.notes
    asked = (model.identity, facts.digest, max_new_tokens)
    given = (told.get("identity"), told.get("facts_digest"), dict(told.get("options", {})).get("max_new_tokens"))
    if said.name != "generations" or asked != given:
        raise BadInput(
            f"The stored reading {said.name!r} is what {told.get('model')} says on {told.get('facts')} in "
            f"{given[2]} tokens; wanted: {model.name} on {facts.name} in {max_new_tokens}. Leave out `said`"
        )
    return list(told["text"])


def with_text(trace: Trace, **more: Any) -> Trace:
    """The trace with more notes, such as the texts it scored."""
    return replace(trace, notes={**trace.notes, **more})
