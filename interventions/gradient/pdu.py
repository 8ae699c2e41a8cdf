"""PDU: flatten the logits on forget answers while a dual variable holds the retain loss under a bound.

Source: Entesari et al. 2025, https://arxiv.org/abs/2506.05314; formulas in losses/pdu.py. The dual variable rises after
each update whose retain loss broke the bound, and falls otherwise. Here answer tokens as they are predicted, where
OpenUnlearning's mask is one position late. A training that is resumed takes the variable up where it was.
Expect: `notes["losses"]` large at first, as they hold squares of logits. Cannot do: suit a model without its bound.
"""

from functools import reduce
from typing import ClassVar

from jaxtyping import Float
from pydantic import Field
from torch import Tensor

from interventions.gradient.course import Course
from interventions.gradient.descend import GradientMethod, Need
from interventions.gradient.given import Given
from interventions.gradient.losses.pdu import dual_step, flatness, pdu


class Pdu(GradientMethod):
    """Primal-dual unlearning."""

    needs: ClassVar[frozenset[Need]] = frozenset({"retain"})

    bound: float = Field(0.5, ge=0)
    """What the retain loss may be, nats."""
    rate: float = Field(1.0, ge=0)
    """Step size of the dual variable."""
    multiplier: float = Field(1.0, ge=0)
    """The dual variable at the start."""

    def forget_loss(self, given: Given) -> Float[Tensor, ""]:
        """How far the largest logits stand out, squared."""
        return flatness(given.forget.logits)

    def loss(self, given: Given) -> Float[Tensor, ""]:
        """The Lagrangian; `retain_weight` multiplies what is bounded."""
        retain = self.retain_weight * self.retain_loss(given)
        multiplier = self.dual(given.course)
        given.course.tell(float(retain.detach()))
        value = pdu(self.forget_loss(given), retain, multiplier, self.bound, self.forget_weight)
        return value if given.extra is None else value + given.extra

    def dual(self, course: Course) -> float:
        """The dual variable now: the start value, moved by each retain loss that was told."""
        return reduce(self._moved, course.history, self.multiplier)

    def _moved(self, multiplier: float, retain: float) -> float:
        return dual_step(multiplier, retain, self.bound, self.rate)
