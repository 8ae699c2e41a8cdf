"""What a model makes of each labelled token: its log-probability, whether it comes first, and what could be expected.

Labels hold the answer's tokens and -100 elsewhere; each is predicted from the position before it.
Source: OpenUnlearning, https://arxiv.org/abs/2506.12618 (`tokenwise_logprobs`), which always drops the last label of a
row, end-of-text or not, so that a row with one label has none left: `published`. Here every label counts.
Read it as: the one table that probability, memorisation and membership scores are computed from.
Does not show: what the model says when it may choose the earlier tokens itself.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from workbench.objectives import IGNORED


@dataclass(frozen=True)
class AnswerTokens:
    """The labelled tokens of one text."""

    logprob: Float[Tensor, " token"]
    """Log-probability of each, nats."""
    hit: Bool[Tensor, " token"]
    """Whether it is the most likely token there."""
    mean: Float[Tensor, " token"]
    """Expected log-probability of a token drawn from the model there (minus its entropy), nats."""
    variance: Float[Tensor, " token"]
    """Variance of that log-probability, nats squared."""

    @property
    def loss(self) -> float:
        """Mean negative log-likelihood a token, nats; NaN without tokens."""
        return float(-self.logprob.mean())


def tokens_of(logits: Float[Tensor, "token vocab"], token: Int[Tensor, " token"]) -> AnswerTokens:
    """The table of one text.

    Args:
        logits: what predicts each token, in float32 or better.
        token: the tokens that stand there.
    """
    token = token.to(logits.device)
    every = logits.log_softmax(dim=-1)
    share = every.exp()
    possible = share > 0  # 0 times minus infinity is nothing, not NaN
    mean = torch.where(possible, share * every, 0.0).sum(dim=-1)
    variance = torch.where(possible, share * (every - mean[:, None]).square(), 0.0).sum(dim=-1)
    chosen = every.gather(-1, token[:, None])[:, 0]
    return AnswerTokens(chosen, logits.argmax(dim=-1) == token, mean, variance)


def answer_tokens(
    logits: Float[Tensor, "row pos vocab"], labels: Int[Tensor, "row pos"], published: bool = False
) -> list[AnswerTokens]:
    """The labelled tokens of every row.

    Args:
        logits: as a model gives them, in float32 or better.
        labels: tokens, -100 where there is none; the first position is never predicted.
        published: leave out the last label of every row, as OpenUnlearning does.
    """
    found = []
    for row, label in zip(logits[:, :-1], labels[:, 1:], strict=True):
        position = (label != IGNORED).nonzero()[:, 0]
        position = position[:-1] if published else position
        found.append(tokens_of(row[position], label[position]))
    return found
