"""CE-U: learn one's own distribution with the true token ruled out.

Source: Yang 2025, https://arxiv.org/abs/2503.01224; formula in losses/ceu.py. The paper leaves the first answer token
alone and has no retain loss; a fact's answer is often one token, so here `skip` is 0, and 1 is as published.
Expect: a push that neither vanishes nor explodes. Cannot do: be read as progress by its loss, whose target moves.
"""

from jaxtyping import Float
from pydantic import Field
from torch import Tensor

from interventions.gradient.descend import GradientMethod
from interventions.gradient.given import Given
from interventions.gradient.losses.ceu import ce_u


class CeU(GradientMethod):
    """Cross-entropy unlearning."""

    skip: int = Field(0, ge=0)
    """Answer tokens at the start of each answer that are left alone; 1 in the paper."""

    def forget_loss(self, given: Given) -> Float[Tensor, ""]:
        """Cross-entropy to the model's own distribution over the other tokens."""
        return ce_u(given.forget, self.skip)
