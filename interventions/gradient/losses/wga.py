"""WGA: gradient ascent on what the model is still sure of.

Source: Wang et al. 2025, https://arxiv.org/abs/2502.19301. Formula: -mean_t p_t^beta NLL_t over all answer tokens, the
weight a constant of the step (detached). As in OpenUnlearning (beta 1; the authors' default is 5).
Expect: ascent that slows down by itself. Cannot do: lower an answer that is already unlikely.
"""

from jaxtyping import Float
from torch import Tensor

from interventions.gradient.losses.ascent import weighted_ascent
from interventions.gradient.losses.said import Said


def wga(forget: Said, beta: float = 1.0) -> Float[Tensor, ""]:
    """Gradient ascent weighted by the token's own probability to the power of beta."""
    return weighted_ascent(forget, (-beta * forget.loss).exp())
