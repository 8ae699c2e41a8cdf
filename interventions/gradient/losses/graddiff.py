"""GradDiff, and how any forget loss is joined with any retain loss.

Source: Liu et al. 2022, https://arxiv.org/abs/2203.12817. Formula: gamma * forget + alpha * retain; GradDiff itself has
gradient ascent as forget and the ordinary loss on retain facts (`retain.mean`) or a KL (kl.py) as retain.
As in OpenUnlearning (gamma 1, alpha 1). The weights are of means, so they do not depend on the batch size.
Expect: neighbours kept better than by ascent alone. Cannot do: bound the forget loss.
"""

from jaxtyping import Float
from torch import Tensor

from interventions.gradient.losses.ascent import ascent
from interventions.gradient.losses.said import Said


def with_retain(
    forget: Float[Tensor, ""], retain: Float[Tensor, ""], gamma: float = 1.0, alpha: float = 1.0
) -> Float[Tensor, ""]:
    """Gamma times a forget loss plus alpha times a retain loss."""
    return gamma * forget + alpha * retain


def grad_diff(forget: Said, retain: Float[Tensor, ""], gamma: float = 1.0, alpha: float = 1.0) -> Float[Tensor, ""]:
    """Gradient ascent on the forget answers joined with a retain loss."""
    return with_retain(ascent(forget), retain, gamma, alpha)
