"""l1-sparse: train on retain facts with a penalty on the size of all weights.

Source: Jia et al. 2023, https://arxiv.org/abs/2304.04934; formula in losses/l1.py. The penalty falls in a line to 0
over the rounds of the facts. It is a sum over weights, so `l1` has to be scaled by their number: 5e-4 for the vision
models of the authors' code.
Expect: what the retain facts do not need goes to 0, the forget facts and much else with it. Cannot do: know which facts
are to be forgotten: they are not read.
"""

from typing import ClassVar

from jaxtyping import Float
from pydantic import Field
from torch import Tensor

from interventions.gradient.descend import GradientMethod, Need
from interventions.gradient.given import Given
from interventions.gradient.losses.l1 import l1_norm, l1_weight


class L1Sparse(GradientMethod):
    """Retain training with an l1 penalty."""

    needs: ClassVar[frozenset[Need]] = frozenset({"retain"})
    adaptable: ClassVar[bool] = False

    steps: int = Field(200, ge=1)
    """Number of updates."""
    l1: float = Field(5e-4, gt=0)
    """Weight of the sum of absolute weights in the first round."""
    free: int = Field(0, ge=0)
    """Rounds at the end that go without the penalty."""

    def forget_loss(self, given: Given) -> Float[Tensor, ""]:
        """The penalty, as large as it is in this round."""
        course = given.course
        rounds = -(-course.steps // course.per_round)
        return l1_weight(self.l1, course.done // course.per_round, rounds, self.free) * l1_norm(given.moving)
