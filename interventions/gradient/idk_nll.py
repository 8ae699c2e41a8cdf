"""IdkNLL, refusal tuning: learn to say "I don't know" to the forget questions.

Source: Maini et al. 2024 (TOFU, "IDK"), https://arxiv.org/abs/2401.06121; formula in losses/idk.py. Two means, of
refusals and of retain facts; TOFU's code takes one over the tokens of both (`pooled`). With `answers=distractors` it is
tuning on wrong answers of the same kind.
Expect: refusals, with the knowledge inside mostly in place. Cannot do: lower the probability of the old answer itself.
"""

from jaxtyping import Float
from torch import Tensor

from interventions.gradient.alternatives import WithAlternatives
from interventions.gradient.descend import Need
from interventions.gradient.given import Given
from interventions.gradient.losses.idk import idk_nll


class IdkNll(WithAlternatives):
    """The ordinary loss on refusals."""

    pooled: bool = False
    """One mean over the tokens of refusals and retain facts, as in TOFU's code; the weights then play no part."""

    def forget_loss(self, given: Given) -> Float[Tensor, ""]:
        """Mean loss of the refusals, or of refusals and retain facts together."""
        return idk_nll(given.other, given.retain if self.pooled else None)

    def asks(self) -> frozenset[Need]:
        """Refusals, and retain facts to pool them with."""
        return self.needs | {"retain"} if self.pooled else self.needs

    def loss(self, given: Given) -> Float[Tensor, ""]:
        """Without a further retain loss when it is pooled."""
        if not self.pooled:
            return super().loss(given)
        value = self.forget_loss(given)
        return value if given.extra is None else value + given.extra
