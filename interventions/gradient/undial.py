"""UNDIAL: distil the start model with the logit of each forget token lowered.

Source: Dong et al. 2024, https://arxiv.org/abs/2402.10052; formula in losses/undial.py. Only answer tokens, where the
authors' code and OpenUnlearning take all positions; the start model's predictions are stored whole before training.
Expect: a fixed target, so training converges. Cannot do: forget more than `strength` says.
"""

from typing import ClassVar

from jaxtyping import Float
from pydantic import Field
from torch import Tensor

from interventions.gradient.descend import GradientMethod, Need
from interventions.gradient.given import Given
from interventions.gradient.losses.undial import undial


class Undial(GradientMethod):
    """Self-distillation with lowered logits."""

    needs: ClassVar[frozenset[Need]] = frozenset({"reference"})

    strength: float = Field(10.0, gt=0)
    """What is taken from the logit of each forget token, nats."""

    def forget_loss(self, given: Given) -> Float[Tensor, ""]:
        """Cross-entropy to the lowered predictions."""
        return undial(given.forget, given.reference, self.strength)
