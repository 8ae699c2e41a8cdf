"""GradDiff: gradient ascent on the forget answers, joined with a retain loss.

Source: Liu et al. 2022, https://arxiv.org/abs/2203.12817; weights 1 and 1 as in OpenUnlearning. With `retain=kl` it is
the "KL" baseline of TOFU (https://arxiv.org/abs/2401.06121). `cap` bounds the forget loss.
Expect: neighbours kept better than by ascent alone. Cannot do: stop by itself without a cap.
"""

from jaxtyping import Float
from pydantic import Field
from torch import Tensor

from interventions.gradient.descend import GradientMethod
from interventions.gradient.given import Given
from interventions.gradient.losses.ascent import ascent


class GradDiff(GradientMethod):
    """Gradient ascent with a retain loss."""

    cap: float | None = Field(None, gt=0)
    """Mean token loss, nats, beyond which there is no push any more; none when left out."""

    def forget_loss(self, given: Given) -> Float[Tensor, ""]:
        """Minus the mean token loss."""
        return ascent(given.forget, self.cap)
