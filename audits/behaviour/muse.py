r"""MUSE's two readings of memory: does it go on with the text (verbmem), does it answer questions on it (knowmem)?

Source: MUSE, https://arxiv.org/abs/2407.06460. knowmem: in-context examples "Question: q\nAnswer: a", 32 new tokens,
cut at a blank line or a further question, ROUGE-L recall without stemming. verbmem: the prompt is the beginning of a
text, 128 new tokens, ROUGE-L F1 with the text's own next 128 tokens. Departures: the prompt ends in "Answer:" without
MUSE's blank, which most tokenizers make a token of its own, and the truth is cut to that many of its own tokens, not
counting a first special token: `published` does both as MUSE. OpenUnlearning does not cut the truth.
Read it as: 1, all of it came. A fact's prompt is the question, or the beginning; its answer the answer, or the rest.
Does not show: knowledge that comes out only when asked in another way.
"""

import numpy as np
from pydantic import Field

from audits.behaviour.answers import fact_trace
from audits.behaviour.generations import say, with_text
from audits.metrics.cut import before
from audits.metrics.rouge import rouge
from workbench.concepts import Fact, FactSet
from workbench.errors import BadInput
from workbench.model import HookedModel
from workbench.registry import Method
from workbench.tokens import encode, encode_text
from workbench.trace import Trace


class KnowMem(Method):
    """MUSE's knowledge memorisation: questions in a question-and-answer prompt, ROUGE-L recall."""

    shots: int = Field(2, ge=0)
    """Answered questions in front, taken from the near facts, never about the same subject."""
    max_new_tokens: int = Field(32, ge=1)
    """Tokens said at most."""
    published: bool = False
    """End the prompt in a blank, as MUSE's code does, and take the first examples whomever they are about."""

    def look(self, model: HookedModel, facts: FactSet, near: FactSet | None = None) -> Trace:
        """One recall a fact, in [0, 1].

        Args:
            model: who speaks.
            facts: what is asked.
            near: where the examples come from; not needed with `shots=0`.

        Raises:
            BadInput: when there are fewer examples than asked for.
        """
        model.about(facts)  # refuses an empty set
        asked = [self._prompt(fact, near) for fact in facts]
        rows = [encode_text(model.tokenizer, _edited(model, f, text)) for f, text in zip(facts, asked, strict=True)]
        texts = [before(s.text(model.tokenizer)) for s in say(model, rows, self.max_new_tokens)]
        found = [rouge(fact.answer, text, stem=False).rougeL_recall for fact, text in zip(facts, texts, strict=True)]
        return with_text(fact_trace("knowmem", np.array(found), "overlap", facts, model, self), text=texts)

    def _prompt(self, fact: Fact, near: FactSet | None) -> str:
        others = [] if near is None else [n for n in near if self.published or n.subject != fact.subject]
        if len(others) < self.shots:
            raise BadInput(
                f"KnowMem wants {self.shots} answered questions about other subjects than {fact.subject!r}, there are "
                f"{len(others)} near facts; give `near`, or use shots=0"
            )
        shown = "".join(f"Question: {n.prompt}\nAnswer: {n.answer}\n\n" for n in others[: self.shots])
        return f"{shown}Question: {fact.prompt}\nAnswer:" + (" " if self.published else "")


class VerbMem(Method):
    """MUSE's verbatim memorisation: the beginning of a text is given, ROUGE-L F1 with its continuation."""

    max_new_tokens: int = Field(128, ge=1)
    """Tokens said at most, and tokens of the truth they are compared with."""
    published: bool = False
    """Cut the truth as MUSE's code does: tokenised by itself, a first special token counted."""

    def look(self, model: HookedModel, facts: FactSet) -> Trace:
        """One F1 a fact, in [0, 1]."""
        model.about(facts)  # refuses an empty set
        rows = [encode_text(model.tokenizer, model.prompted(fact).prompt) for fact in facts]
        texts = [s.text(model.tokenizer) for s in say(model, rows, self.max_new_tokens)]
        truth = [self._truth(model, fact) for fact in facts]
        found = [rouge(right, text, stem=False).rougeL_f1 for right, text in zip(truth, texts, strict=True)]
        trace = fact_trace("verbmem", np.array(found), "overlap", facts, model, self)
        return with_text(trace, text=texts, truth=truth)

    def _truth(self, model: HookedModel, fact: Fact) -> str:
        if self.published:
            ids = list(model.tokenizer(fact.answer)["input_ids"])
        else:
            ids = list(encode(model.tokenizer, fact).answer)
        return str(model.tokenizer.decode(ids[: self.max_new_tokens], skip_special_tokens=True)).strip()


def _edited(model: HookedModel, fact: Fact, text: str) -> str:
    """The whole prompt as the model is shown it, if a prompt edit is on."""
    return model.prompted(fact.model_copy(update={"prompt": text})).prompt
