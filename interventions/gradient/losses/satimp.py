"""SatImp: gradient ascent weighted by saturation and importance.

Source: Yang et al. 2025, https://arxiv.org/abs/2505.11953. Formula: -mean_t p_t^beta1 (1 - p_t)^beta2 NLL_t over all
answer tokens, the weight a constant of the step (detached). As in OpenUnlearning's configuration (beta1 5, beta2 1,
joined as gamma .1, alpha 1; the defaults of its class are those two swapped).
Expect: ascent on tokens that are likely but not certain. Cannot do: start from an answer of probability one.
"""

from jaxtyping import Float
from torch import Tensor

from interventions.gradient.losses.ascent import weighted_ascent
from interventions.gradient.losses.said import Said


def satimp(forget: Said, beta1: float = 5.0, beta2: float = 1.0) -> Float[Tensor, ""]:
    """Gradient ascent weighted by p^beta1 (1 - p)^beta2."""
    probability = (-forget.loss).exp()
    return weighted_ascent(forget, probability**beta1 * (1 - probability) ** beta2)
