"""WGA: gradient ascent on what the model is still sure of.

Source: Wang et al. 2025, https://arxiv.org/abs/2502.19301; formula in losses/wga.py. beta 1 as in OpenUnlearning; the
authors' default is 5.
Expect: ascent that slows down by itself. Cannot do: lower an answer that is already unlikely.
"""

from jaxtyping import Float
from pydantic import Field
from torch import Tensor

from interventions.gradient.descend import GradientMethod
from interventions.gradient.given import Given
from interventions.gradient.losses.wga import wga


class Wga(GradientMethod):
    """Weighted gradient ascent with a retain loss."""

    beta: float = Field(1.0, ge=0)
    """Power of the token's probability that weighs its loss."""

    def forget_loss(self, given: Given) -> Float[Tensor, ""]:
        """Ascent weighted by p^beta."""
        return wga(given.forget, self.beta)
