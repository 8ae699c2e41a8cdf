"""Maximum entropy: make the predictions of forget answers even over the vocabulary.

Source: Yuan et al. 2024 (ME), https://arxiv.org/abs/2410.08109: KL(model || uniform), with a retain loss; the other
direction, KL(uniform || model), is what ULD (https://arxiv.org/abs/2406.08607) puts on what it wants even.
Here over answer tokens, where ME's code takes prompts as well.
Expect: the default's gradient vanishes where an answer is certain, so start with `direction=from_uniform` there.
Cannot do: leave grammar in place.
"""

from typing import Literal

from jaxtyping import Float
from torch import Tensor

from interventions.gradient.descend import GradientMethod
from interventions.gradient.given import Given
from interventions.gradient.losses.entropy import kl_from_uniform, kl_to_uniform


class MaxEntropy(GradientMethod):
    """Even predictions on forget answers."""

    direction: Literal["to_uniform", "from_uniform"] = "to_uniform"
    """`to_uniform`: KL(model || uniform), at most the log of the vocabulary; `from_uniform`: KL(uniform || model)."""

    def forget_loss(self, given: Given) -> Float[Tensor, ""]:
        """The divergence between the predictions and the uniform distribution."""
        return (kl_to_uniform if self.direction == "to_uniform" else kl_from_uniform)(given.forget.logits)
