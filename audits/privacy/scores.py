"""Membership scores from one forward pass: loss, loss over compressed size, Min-K%, Min-K%++.

Source: Yeom et al. 2018, https://arxiv.org/abs/1709.01604 (loss); Carlini et al. 2021 (zlib, and the reference attack,
which is `audits.metrics.membership.less_reference` of two stored loss traces); Shi et al. 2023 (Min-K%); Zhang et al.
2024 (Min-K%++); formulas and quirks in audits/metrics/zlib_ratio.py and min_k.py. All as in OpenUnlearning, whose
end-of-text label (counted by loss and zlib, dropped by the others) `published` puts on facts' answers.
Read it as: higher, less likely a member. An audit compares forget facts with never-taught ones, and their AUC with the
retrained model's. Does not show: anything where the two sets differ in kind or length.
"""

from collections.abc import Sequence
from typing import ClassVar

import numpy as np
from pydantic import Field

from audits.behaviour.answer_reading import read_answers
from audits.metrics.answer_tokens import AnswerTokens
from audits.metrics.min_k import min_k, standardised
from audits.metrics.zlib_ratio import zlib_ratio
from audits.privacy.members import Part, members_of
from workbench.concepts import FactSet
from workbench.model import HookedModel
from workbench.registry import Method
from workbench.trace import Trace


class _Score(Method):
    """What the four share."""

    name: ClassVar[str]
    units: ClassVar[str] = "nats per token"
    counts_end: ClassVar[bool] = False
    """Whether the published score counts the end-of-text token."""

    part: Part = "answer"
    """Of a fact: its answer after its prompt, or prompt and answer as one text. Plain texts are always scored whole."""
    published: bool = False
    """OpenUnlearning's labels: with the end-of-text token after an answer, for loss and zlib; the others drop it."""

    def look(self, model: HookedModel, facts: FactSet | Sequence[str]) -> Trace:
        """One score a fact or text, higher for what is less likely a member.

        Raises:
            BadInput: when there is nothing to read, or a text has fewer than two tokens.
        """
        members = members_of(model, facts, self.part, self.published and self.counts_end)
        tables = read_answers(model, members.encoded)
        values = np.array([self.score(t, words) for t, words in zip(tables, members.words, strict=True)])
        return members.trace(self.name, values, self.units, self)

    def score(self, tokens: AnswerTokens, words: str) -> float:
        """The score of one text."""
        raise NotImplementedError


class LossScore(_Score):
    """Mean token loss of a text (or of the answer)."""

    name: ClassVar[str] = "membership_loss"
    counts_end: ClassVar[bool] = True

    def score(self, tokens: AnswerTokens, words: str) -> float:  # noqa: ARG002
        """The score of one text."""
        return tokens.loss


class ZlibScore(_Score):
    """Mean token loss over the bytes that zlib makes of what is scored."""

    name: ClassVar[str] = "membership_zlib"
    units: ClassVar[str] = "nats per token and byte"
    counts_end: ClassVar[bool] = True

    def score(self, tokens: AnswerTokens, words: str) -> float:
        """The score of one text."""
        return zlib_ratio(tokens.loss, words)


class MinKScore(_Score):
    """Mean loss of the least likely tokens."""

    name: ClassVar[str] = "membership_min_k"

    k: float = Field(0.4, gt=0, le=1)
    """Share of the tokens that is taken, at least one."""

    def score(self, tokens: AnswerTokens, words: str) -> float:  # noqa: ARG002
        """The score of one text."""
        return min_k(tokens.logprob.double().numpy(), self.k)


class MinKPlusScore(_Score):
    """Mean of the least likely tokens' log-probabilities, in standard deviations from what the model expects there."""

    name: ClassVar[str] = "membership_min_k_plus"
    units: ClassVar[str] = "standard deviations"

    k: float = Field(0.4, gt=0, le=1)
    """Share of the tokens that is taken, at least one."""

    def score(self, tokens: AnswerTokens, words: str) -> float:  # noqa: ARG002
        """The score of one text."""
        logprob, mean, variance = (t.double().numpy() for t in (tokens.logprob, tokens.mean, tokens.variance))
        return min_k(standardised(logprob, mean, variance), self.k)
