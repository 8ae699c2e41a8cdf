"""SatImp: gradient ascent weighted by saturation and importance.

Source: Yang et al. 2025, https://arxiv.org/abs/2505.11953; formula in losses/satimp.py. As in OpenUnlearning's shipped
configuration: beta1 5, beta2 1, weighed .1 against a retain loss of 1 (its class has the two weights swapped).
Expect: ascent on tokens that are likely but not certain. Cannot do: start from an answer of probability one; raise
`forget_weight`, or set beta2 to 0, where answers are known by heart.
"""

from jaxtyping import Float
from pydantic import Field
from torch import Tensor

from interventions.gradient.descend import GradientMethod
from interventions.gradient.given import Given
from interventions.gradient.losses.satimp import satimp


class SatImp(GradientMethod):
    """Weighted ascent with a retain loss."""

    forget_weight: float = Field(0.1, ge=0)
    """Weight of the forget loss."""
    beta1: float = Field(5.0, ge=0)
    """Power of the token's probability."""
    beta2: float = Field(1.0, ge=0)
    """Power of one less the token's probability."""

    def forget_loss(self, given: Given) -> Float[Tensor, ""]:
        """Ascent weighted by p^beta1 (1 - p)^beta2."""
        return satimp(given.forget, self.beta1, self.beta2)
