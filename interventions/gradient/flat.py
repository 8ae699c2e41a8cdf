"""FLAT: move probability from the forget answer to a template answer, weighed by an f-divergence.

Source: Wang et al. 2024, https://arxiv.org/abs/2410.11143; formulas and the quirks of the authors' code in
losses/flat.py. No retain loss there, so none by default here.
Expect: probabilities move the loss only where they are not yet 0, so long answers move little. Cannot do: see a token
of vanishing probability.
"""

from jaxtyping import Float
from pydantic import Field
from torch import Tensor

from interventions.gradient.alternatives import WithAlternatives
from interventions.gradient.given import Given
from interventions.gradient.losses.flat import Divergence, flat


class Flat(WithAlternatives):
    """Template answers by an f-divergence."""

    retain_weight: float = Field(0.0, ge=0)
    """Weight of the retain loss; the paper has none."""
    divergence: Divergence = "total-variation"
    """The f-divergence; names that end in -published have the sign of the authors' code."""
    published: bool = False
    """Divide by all positions, padding and prompts too, as the authors' code does."""

    def forget_loss(self, given: Given) -> Float[Tensor, ""]:
        """The divergence, to be made larger."""
        positions = (given.positions("forget"), given.positions("other")) if self.published else None
        return flat(given.forget, given.other, self.divergence, positions)
