"""How far a model is from saying nothing in particular: the divergence of its next-token distribution from uniform.

Read it as: 0 where every token is equally likely; it grows without bound as some become impossible.
Does not show: whether what it says is right.
"""

import math
from typing import Any

from jaxtyping import Bool, Float
from torch import Tensor
from transformers import PreTrainedModel


def from_uniform(logits: Float[Tensor, "row pos vocab"], mask: Bool[Tensor, "row pos"]) -> Float[Tensor, ""]:
    """Mean KL(uniform || model) over the tokens of the mask, nats."""
    logprob = logits[mask].float().log_softmax(dim=-1)
    return -logprob.mean() - math.log(logprob.shape[-1])


def uniformity_loss(model: PreTrainedModel, batch: dict[str, Any], prefix: str = "") -> Float[Tensor, ""]:
    """Divergence from uniform at every token of the batch entries whose names start with `prefix`."""
    named = {key: batch[prefix + key] for key in ("input_ids", "attention_mask", "position_ids")}
    return from_uniform(model(**named, use_cache=False).logits, named["attention_mask"].bool())
