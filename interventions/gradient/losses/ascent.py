"""Gradient ascent (GA): minus the token loss of the forget answers; also capped, and weighted by token.

Source: Jang et al. 2022, https://arxiv.org/abs/2210.01504. Formula: -mean_t NLL_t over all answer tokens of the batch,
as in OpenUnlearning, TOFU and MUSE (not the mean of row means). Capped: -min(mean NLL, cap).
Expect: the plain form has no floor, so training diverges when run for long. Cannot do: stop, unless capped.
"""

from jaxtyping import Float
from torch import Tensor

from interventions.gradient.losses.said import Said


def ascent(forget: Said, cap: float | None = None) -> Float[Tensor, ""]:
    """-mean NLL of the forget answers.

    Args:
        forget: the model in training on the forget facts.
        cap: mean NLL, nats, beyond which there is no gradient any more; None for no cap.
    """
    return -(forget.mean if cap is None else forget.mean.clamp_max(cap))


def weighted_ascent(forget: Said, weight: Float[Tensor, " n"]) -> Float[Tensor, ""]:
    """-mean of weight times NLL over all answer tokens; the weights are constants of the step (detached)."""
    return -(weight.detach() * forget.loss).mean()
