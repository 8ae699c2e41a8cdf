"""SimNPO: NPO without a reference model, by the mean token loss of each answer.

Source: Fan et al. 2024, https://arxiv.org/abs/2410.07163; formula in losses/simnpo.py. As in the authors' code and
OpenUnlearning: beta 4.5, delta 0, weighed .125 against a retain loss of 1.
Expect: short answers sink as readily as long ones. Cannot do: stop an answer at what the start model would say.
"""

from jaxtyping import Float
from pydantic import Field
from torch import Tensor

from interventions.gradient.descend import GradientMethod
from interventions.gradient.given import Given
from interventions.gradient.losses.simnpo import simnpo


class SimNpo(GradientMethod):
    """Reference-free NPO with a retain loss."""

    forget_weight: float = Field(0.125, ge=0)
    """Weight of the forget loss."""
    beta: float = Field(4.5, gt=0)
    """Inverse temperature, per token: how soon the push fades."""
    delta: float = 0.0
    """Mean token loss, nats, around which the push fades; the paper's margin gamma is beta times this."""

    def forget_loss(self, given: Given) -> Float[Tensor, ""]:
        """The push that fades as the mean token loss grows."""
        return simnpo(given.forget, self.beta, self.delta)
