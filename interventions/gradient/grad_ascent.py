"""Gradient ascent: make the forget answers less likely, with an optional retain loss (GradDiff).

Source: Jang et al. 2023, https://arxiv.org/abs/2210.01504 (GA); Liu et al. 2022, https://arxiv.org/abs/2203.12817
(GradDiff). Variant: minus the mean over all answer tokens of the batch, as in OpenUnlearning; `cap` bounds it.
Expect: without a cap the loss has no floor, so the model diverges when run for long; without a retain loss neighbours
and fluency go too. Cannot do: stop by itself. Stop by `steps`, and read `near` and `far`.
"""

from jaxtyping import Float
from pydantic import Field
from torch import Tensor

from interventions.gradient.descend import GradientMethod
from interventions.gradient.given import Given
from workbench.objectives import TokenLoss


class GradAscent(GradientMethod):
    """Gradient ascent on the forget answers."""

    retain_weight: float = Field(0.0, ge=0)
    """Weight of the retain loss; 0 is plain gradient ascent, 1 is GradDiff."""
    cap: float | None = Field(None, gt=0)
    """Mean token loss, nats, beyond which there is no push any more; none when left out."""

    def forget_loss(self, given: Given) -> Float[Tensor, ""]:
        """Minus the mean token loss."""
        return ascent_loss(given.forget_loss, self.cap)


def ascent_loss(forget: TokenLoss, cap: float | None = None) -> Float[Tensor, ""]:
    """Minus the mean token loss, or minus the cap where that is smaller."""
    return -(forget.mean if cap is None else forget.mean.clamp_max(cap))
