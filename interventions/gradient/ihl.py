"""IHL, the inverted hinge loss: let the best other token overtake the true one.

Source: Cha et al. 2024 (LoKU), https://arxiv.org/abs/2408.06621; formula in losses/ihl.py; with a retain loss of weight
1 as in the authors' code. LoKU's start of an adapter (FILA) is no loss and not here.
Expect: bounded, and mainly two tokens are moved. Cannot do: push on once the answer is gone and another is certain.
"""

from jaxtyping import Float
from torch import Tensor

from interventions.gradient.descend import GradientMethod
from interventions.gradient.given import Given
from interventions.gradient.losses.ihl import ihl


class Ihl(GradientMethod):
    """Inverted hinge loss with a retain loss."""

    def forget_loss(self, given: Given) -> Float[Tensor, ""]:
        """1 + the true token's probability less that of the best other one."""
        return ihl(given.forget)
