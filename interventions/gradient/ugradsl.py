"""UGradSL: gradient ascent with generalised label smoothing.

Source: Di et al. 2024, https://arxiv.org/abs/2406.07698; formula in losses/ugradsl.py. UGradSL+ mixes in a retain loss
with share p: `retain_weight=p forget_weight=1-p`; .5 and .5 here, and `retain_weight=0` is UGradSL.
Expect: ascent that at the same time pulls towards the uniform distribution. Cannot do: stop by itself.
"""

from jaxtyping import Float
from pydantic import Field
from torch import Tensor

from interventions.gradient.descend import GradientMethod
from interventions.gradient.given import Given
from interventions.gradient.losses.ugradsl import ugradsl


class UGradSl(GradientMethod):
    """Ascent with smoothed labels, and a retain loss."""

    forget_weight: float = Field(0.5, ge=0)
    """Weight of the forget loss, the paper's 1 - p."""
    retain_weight: float = Field(0.5, ge=0)
    """Weight of the retain loss, the paper's p; 0 is UGradSL without a plus."""
    rate: float = Field(-0.4, lt=1)
    """Smoothing of the labels; negative in the inverse form. -.4 as in FLAT's comparison."""

    def forget_loss(self, given: Given) -> Float[Tensor, ""]:
        """Minus the smoothed loss."""
        return ugradsl(given.forget, self.rate)
