"""Labelled answer batches and their token losses: what every training on facts is made of.

Labels hold the answer's tokens and -100 elsewhere, as everywhere in the field, so the pure functions here can be
compared with published implementations on the same logits.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional
from transformers import PreTrainedModel

from workbench.tokens import Encoded, pad

IGNORED = -100
"""Label of a position that is not learnt."""


@dataclass(frozen=True)
class TokenLoss:
    """Negative log-likelihood of the labelled tokens of each row."""

    total: Float[Tensor, " row"]
    """Sum over the row's labelled tokens, nats."""
    count: Int[Tensor, " row"]
    """Number of labelled tokens."""

    @property
    def mean(self) -> Float[Tensor, ""]:
        """Mean over all labelled tokens of the batch (not the mean of row means)."""
        return self.total.sum() / self.count.sum()


def token_loss(logits: Float[Tensor, "row pos vocab"], labels: Int[Tensor, "row pos"]) -> TokenLoss:
    """Cross-entropy of each labelled token, predicted from the position before it."""
    shifted = labels[:, 1:]
    flat = functional.cross_entropy(logits[:, :-1].transpose(1, 2), shifted, ignore_index=IGNORED, reduction="none")
    return TokenLoss(flat.sum(dim=1), (shifted != IGNORED).sum(dim=1))


def labelled(encoded: Sequence[Encoded]) -> dict[str, Tensor]:
    """Ids, mask, position ids and labels of facts, padded on the right."""
    batch = pad([e.ids for e in encoded])
    labels = torch.full_like(batch.ids, IGNORED)
    for row, fact in enumerate(encoded):
        labels[row, fact.answer_start : len(fact.ids)] = torch.tensor(fact.answer)
    return {**batch.inputs(torch.device("cpu")), "labels": labels}


def answer_loss(model: PreTrainedModel, batch: dict[str, Any], prefix: str = "") -> TokenLoss:
    """Token loss of the batch entries whose names start with `prefix`."""
    named = {key: batch[prefix + key] for key in ("input_ids", "attention_mask", "position_ids")}
    return token_loss(model(**named, use_cache=False).logits, batch[prefix + "labels"])


def answer_nll(model: PreTrainedModel, batch: dict[str, Any]) -> Float[Tensor, ""]:
    """Ordinary training on answers: the mean token loss."""
    return answer_loss(model, batch).mean
