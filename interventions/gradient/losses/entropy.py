"""Maximum entropy: make the predictions of forget answers even over the vocabulary.

Source: Yuan et al. 2024 (ME), https://arxiv.org/abs/2410.08109: KL(model || uniform), the log of the vocabulary size
less the entropy. The other direction, KL(uniform || model), is what Ji et al. 2024 (ULD, https://arxiv.org/abs/2406.08607)
put on retain facts. Mean over positions, in nats; both are 0 for the uniform distribution.
Expect: KL(model || uniform) is at most log V with a gradient that vanishes at certainty; KL(uniform || model) has no
bound and pulls on every token. Cannot do: leave grammar in place. No stored number of published code.
"""

import math

from jaxtyping import Float
from torch import Tensor

from interventions.gradient.losses.said import wide


def kl_to_uniform(logits: Float[Tensor, "n vocab"]) -> Float[Tensor, ""]:
    """Mean over positions of KL(model || uniform) = log V - entropy."""
    log_prob = wide(logits).log_softmax(dim=-1)
    return math.log(log_prob.shape[-1]) + (log_prob.exp() * log_prob).sum(dim=-1).mean()


def kl_from_uniform(logits: Float[Tensor, "n vocab"]) -> Float[Tensor, ""]:
    """Mean over positions of KL(uniform || model)."""
    log_prob = wide(logits).log_softmax(dim=-1)
    return -math.log(log_prob.shape[-1]) - log_prob.mean()
