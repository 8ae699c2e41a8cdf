"""Negative preference optimisation: push the forget answers below the original model's, more gently as they sink.

Source: Zhang et al. 2024, https://arxiv.org/abs/2404.05868. Forget term -(2/beta) mean log sigmoid(-beta log ratio)
with the ratio of *summed* token log-probabilities; plus `retain_weight` times the ordinary loss on retain facts
(NPO-RT). As in OpenUnlearning; WAGLE, SOUL and SimNPO's WMDP code use per-token means instead (`per_token`).
The original model's log-probabilities are computed once, so there is no second model in memory.
Expect: answers gone with neighbours mostly kept; a short relearning often brings much of it back.
Cannot do: act locally by itself; a small `beta` behaves like gradient ascent.
"""

from typing import ClassVar

from jaxtyping import Float
from pydantic import Field
from torch import Tensor
from torch.nn import functional

from interventions.gradient.descend import GradientMethod, Need
from interventions.gradient.given import Given
from workbench.objectives import TokenLoss


class Npo(GradientMethod):
    """NPO with a retain loss."""

    needs: ClassVar[frozenset[Need]] = frozenset({"original"})

    steps: int = Field(80, ge=1)
    """Number of updates."""
    beta: float = Field(0.5, gt=0)
    """Inverse temperature: how soon the push fades once an answer is less likely than it was."""
    per_token: bool = False
    """Use mean token log-probabilities in the ratio (the variant of some published code) instead of sums."""

    def forget_loss(self, given: Given) -> Float[Tensor, ""]:
        """The push that fades as answers sink."""
        return npo_loss(given.forget_loss, given.original, self.beta, self.per_token)


def npo_loss(
    forget: TokenLoss, original: Float[Tensor, " row"], beta: float, per_token: bool = False
) -> Float[Tensor, ""]:
    """-(2/beta) mean log sigmoid(beta (NLL now - NLL of the original model)).

    Args:
        forget: token losses of the model being trained.
        original: summed answer log-probability under the original model, nats.
        beta: inverse temperature.
        per_token: divide both by the number of answer tokens.
    """
    risen = forget.total + original.to(forget.total)
    risen = risen / forget.count if per_token else risen
    return -2 / beta * functional.logsigmoid(beta * risen).mean()
