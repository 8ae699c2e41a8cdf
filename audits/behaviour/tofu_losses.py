"""All losses that TOFU's numbers are made of, from one pass: of the answer, its rewording and the wrong answers.

Source: Maini et al. 2024, https://arxiv.org/abs/2401.06121. Its code, and OpenUnlearning's, count the end-of-text token
as one of every answer's tokens; the paper's formulas do not. One pass over the answer with that token gives both.
Read it as: raw material of `audits.standard_numbers`: probability, truth ratio, forget quality, model utility.
Does not show: anything by itself; answers of one fact differ in length and wording.
"""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float

from audits.behaviour.answer_reading import read_answers, with_end
from audits.behaviour.options import answering
from workbench.concepts import Fact, FactSet
from workbench.model import HookedModel
from workbench.registry import Method
from workbench.trace import Trace

ENDS = ("without", "with")
"""Whether the end-of-text token counts: as in the papers' formulas, as in the published code."""


class TofuLosses(Method):
    """Mean token losses of a fact's answers."""

    def look(self, model: HookedModel, facts: FactSet) -> Trace:
        """Axes (fact, answer, end), nats per token; the answers are `answer`, `reworded`, `wrong 0`, `wrong 1`...

        NaN where a fact has no such answer, and with the end where the tokenizer has no end-of-text token.
        """
        about = model.about(facts)  # refuses an empty set
        told = [answers_of(fact) for fact in facts]
        values = np.full((len(facts), max(map(len, told)), len(ENDS)), np.nan)
        places = [(i, j) for i, some in enumerate(told) for j, words in enumerate(some) if words]
        found = _both(model, [answering(facts.facts[i], told[i][j]) for i, j in places])
        for (i, j), losses in zip(places, found, strict=True):
            values[i, j] = losses
        wrong = tuple(f"wrong {i}" for i in range(values.shape[1] - 2))
        labels = {"fact": facts.labels, "answer": ("answer", "reworded", *wrong), "end": ENDS}
        notes = {**about, "options": self.spec()}
        return Trace("tofu_losses", values, ("fact", "answer", "end"), "nats per token", labels, notes)


def answers_of(fact: Fact) -> tuple[str, ...]:
    """The answer, its rewording (empty when there is none), the wrong answers."""
    return (fact.answer, fact.reworded_answer, *fact.distractors)


def _both(model: HookedModel, facts: Sequence[Fact]) -> list[Float[np.ndarray, " end"]]:
    """Mean token loss without and with the end-of-text token."""
    encoded = model.encode(facts)
    if model.tokenizer.eos_token_id is None:
        return [np.array([table.loss, np.nan]) for table in read_answers(model, encoded)]
    tables = read_answers(model, with_end(model, encoded))
    logprobs = (table.logprob.double().numpy() for table in tables)
    return [np.array([-own[:-1].mean(), -own.mean()]) for own in logprobs]
