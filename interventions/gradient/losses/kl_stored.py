"""KL divergence to a reference of which only the likeliest tokens were stored, and the weight of all others together.

Formula: the KL of kl.py between distributions over k + 1 outcomes: the k likeliest tokens of the reference, and "any
other". Source: own, by the grouping property of KL: never above the exact value, equal to it when k is the vocabulary
or both models share the tail among its tokens alike. A position costs k + 1 numbers and k ids instead of a vocabulary.
Cannot do: see how the tail is shared out.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from interventions.gradient.losses.kl import forward_kl, reverse_kl
from interventions.gradient.losses.said import wide


@dataclass(frozen=True)
class TopK:
    """A reference distribution, position by position, as it is stored."""

    token: Int[Tensor, "n k"]
    """The likeliest tokens."""
    log_prob: Float[Tensor, "n outcome"]
    """Their log-probabilities, nats, and last that of all others together (left out where there are none)."""

    @classmethod
    def of(cls, logits: Float[Tensor, "n vocab"], k: int) -> "TopK":
        """Keep the k likeliest tokens; all of them where the vocabulary has no more."""
        token = logits.topk(min(k, logits.shape[-1]), dim=-1).indices
        return cls(token, grouped(logits, token))


def grouped(logits: Float[Tensor, "n vocab"], token: Int[Tensor, "n k"]) -> Float[Tensor, "n outcome"]:
    """Log-probabilities of some tokens and, last, of all others together."""
    log_prob = wide(logits).log_softmax(dim=-1)
    named = log_prob.gather(1, token)
    if token.shape[-1] == log_prob.shape[-1]:
        return named
    rest = log_prob.scatter(1, token, -torch.inf).logsumexp(dim=-1, keepdim=True)
    return torch.cat([named, rest], dim=-1)


def forward_kl_stored(logits: Float[Tensor, "n vocab"], reference: TopK) -> Float[Tensor, ""]:
    """Mean over positions of KL(reference || current) over k + 1 outcomes, nats."""
    return forward_kl(grouped(logits, reference.token), reference.log_prob)


def reverse_kl_stored(logits: Float[Tensor, "n vocab"], reference: TopK) -> Float[Tensor, ""]:
    """Mean over positions of KL(current || reference) over k + 1 outcomes, nats."""
    return reverse_kl(grouped(logits, reference.token), reference.log_prob)
