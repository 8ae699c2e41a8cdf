"""Random labels: the ordinary loss on forget questions with wrong answers.

Source: Golatkar et al. 2019, https://arxiv.org/abs/1911.04933; with `mask=salun` it is SalUn, Fan et al. 2023,
https://arxiv.org/abs/2310.12508. `answers=tokens`: a token drawn once for each answer token, evenly from all others;
`distractors`: one of the fact's wrong answers of the same kind, the usual choice for facts.
Expect: nonsense, or another answer, in its place. Cannot do: leave the form of an answer intact with random tokens.
"""

from collections.abc import Sequence
from typing import Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor

from interventions.gradient.alternatives import with_others
from interventions.gradient.descend import GradientMethod, Need
from interventions.gradient.given import Given
from interventions.gradient.losses.random_labels import other_tokens, random_label_nll
from interventions.gradient.pairs import Text
from workbench.concepts import Fact
from workbench.model import HookedModel


class RandomLabel(GradientMethod):
    """Wrong answers learnt by heart."""

    answers: Literal["tokens", "distractors"] = "tokens"
    """What is learnt instead: random tokens, or a wrong answer of the same kind."""

    def asks(self) -> frozenset[Need]:
        """Other labels, or other answers."""
        return frozenset({"labels"} if self.answers == "tokens" else {"other"})

    def labels(self, model: HookedModel, forget: Sequence[Text], _: Sequence[str]) -> list[Int[Tensor, " token"]]:
        """Random tokens, none of them the true one."""
        generator = torch.Generator().manual_seed(self.seed)
        vocab = len(model.unembedding)
        return [other_tokens(torch.tensor(text.encoded.answer), vocab, generator) for text in forget]

    def other_answers(self, facts: Sequence[Fact]) -> list[Fact]:
        """The facts with wrong answers of the same kind."""
        return with_others(facts, None, self.seed)

    def forget_loss(self, given: Given) -> Float[Tensor, ""]:
        """Mean loss of what is learnt instead."""
        return random_label_nll(given.forget, given.drawn) if self.answers == "tokens" else given.other.mean
