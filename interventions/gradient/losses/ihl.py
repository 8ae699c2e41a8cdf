"""IHL, the inverted hinge loss: let the best other token overtake the true one.

Source: Cha et al. 2024 (LoKU), https://arxiv.org/abs/2408.06621. Formula: mean over answer tokens of
1 + p(true) - max_{v != true} p(v); between 0 and 2. As in the authors' code, whose clamp at 0 never acts and whose
softmax is skipped for scores that all lie in [0, 1] (never so for real logits); it adds the retain loss with weight 1.
Expect: bounded, and mainly two tokens are moved. Cannot do: push on once the answer is gone and another is certain.
"""

from jaxtyping import Float
from torch import Tensor

from interventions.gradient.losses.said import Said


def ihl(forget: Said) -> Float[Tensor, ""]:
    """1 + the true token's probability - that of the best other one, mean over answer tokens."""
    probability = forget.logits.softmax(dim=-1)
    true = probability.gather(1, forget.token[:, None])
    rival = probability.scatter(1, forget.token[:, None], -1.0).amax(dim=-1, keepdim=True)
    return (1 + true - rival).mean()
