"""What a patched model is scored by: functions from the logits that predict an answer to one number a row.

    probability        of the whole answer
    logprob            of the whole answer, nats
    logit_difference   logit of the answer less that of a wrong one, at the first token in which the two differ
    kl                 minus KL(clean run || this run), summed over the positions that predict the answer, nats

Source: Zhang & Nanda 2024, https://arxiv.org/abs/2309.16042, section 2; they recommend the logit difference, because
it also sees what speaks against the answer, where a probability near 0 cannot fall. Variant: answers of many tokens
are teacher forced; theirs are one token.
Read it as: more is closer to the clean run, for all four. `kl` is 0 in the clean run and compares whole distributions.
Does not show: `kl` does not say that it is the answer which came back.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

from jaxtyping import Float, Int
from torch import Tensor

from workbench.scoring import token_scores

Metric = Literal["probability", "logprob", "logit_difference", "kl"]
"""See the module."""

UNITS: dict[Metric, str] = {
    "probability": "probability",
    "logprob": "nats",
    "logit_difference": "logits",
    "kl": "nats",
}
"""Unit of each metric."""

Measure = Callable[[Tensor], Tensor]
"""From logits (row, kept, vocab) to one number a row."""


@dataclass(frozen=True, eq=False)
class LogProbability:
    """Of an answer, or its exponential."""

    tokens: Int[Tensor, " kept"]
    """The answer's tokens."""
    exponential: bool = False
    """Whether to give the probability itself."""

    def __call__(self, logits: Float[Tensor, "row kept vocab"]) -> Float[Tensor, " row"]:
        """One number a row."""
        logprob, _, _ = token_scores(logits.float().flatten(0, 1), self.tokens.repeat(len(logits)))
        total = logprob.view(len(logits), -1).sum(dim=1)
        return total.exp() if self.exponential else total


@dataclass(frozen=True)
class LogitDifference:
    """Between two tokens at one of the kept positions."""

    at: int
    """Which of them."""
    right: int
    """Token of the answer."""
    wrong: int
    """Token of the wrong answer."""

    def __call__(self, logits: Float[Tensor, "row kept vocab"]) -> Float[Tensor, " row"]:
        """One number a row."""
        return logits[:, self.at, self.right].float() - logits[:, self.at, self.wrong].float()


@dataclass(frozen=True, eq=False)
class Closeness:
    """Minus the KL divergence from the clean run."""

    clean: Float[Tensor, "kept vocab"]
    """Log-probabilities of the clean run."""

    def __call__(self, logits: Float[Tensor, "row kept vocab"]) -> Float[Tensor, " row"]:
        """One number a row."""
        clean = self.clean.to(logits.device)
        apart = clean.exp() * (clean - logits.float().log_softmax(dim=-1))
        return -apart.sum(dim=(1, 2))


def first_difference(right: Sequence[int], wrong: Sequence[int]) -> LogitDifference | None:
    """The logit difference of two answers; None when one is the beginning of the other, or they are the same.

    Up to the first token in which they differ both follow the same text, so one pass predicts both.
    """
    for at, pair in enumerate(zip(right, wrong, strict=False)):
        if pair[0] != pair[1]:
            return LogitDifference(at, *pair)
    return None
