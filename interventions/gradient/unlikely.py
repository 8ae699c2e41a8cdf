"""-log(1 - p): make the tokens of forget answers unlikely, with a loss that has a floor.

Source: Guo et al. 2024 (Mechanistic Unlearning), https://arxiv.org/abs/2410.12949, by the code of HarmBench; formula in
losses/unlikely.py. `floor=-5` leaves tokens below that log-probability alone, as in that code.
Expect: a strong push while the answer is sure, none when it is gone. Cannot do: say what comes instead.
"""

from jaxtyping import Float
from torch import Tensor

from interventions.gradient.descend import GradientMethod
from interventions.gradient.given import Given
from interventions.gradient.losses.unlikely import unlikely


class Unlikely(GradientMethod):
    """Unlikelihood with a retain loss."""

    floor: float | None = None
    """Log-probability, nats, below which a token is left alone; no such bound when left out."""

    def forget_loss(self, given: Given) -> Float[Tensor, ""]:
        """Mean of -log(1 - p)."""
        return unlikely(given.forget, self.floor)
