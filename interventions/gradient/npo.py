"""Negative preference optimisation: push the forget answers below the original model's, more gently as they sink.

Source: Zhang et al. 2024, https://arxiv.org/abs/2404.05868. Forget term -(2/beta) mean log sigmoid(-beta log ratio)
with the ratio of *summed* token log-probabilities; plus `retain_weight` times the ordinary loss on retain facts
(NPO-RT). As in OpenUnlearning; WAGLE, SOUL and SimNPO's WMDP code use per-token means instead (`per_token`).
The original model's log-probabilities are computed once, so there is no second model in memory.
Expect: answers gone with neighbours mostly kept; a short relearning often brings much of it back.
Cannot do: act locally by itself; a small `beta` behaves like gradient ascent.
"""

from collections.abc import Sequence

from jaxtyping import Float
from pydantic import Field
from torch import Tensor
from torch.nn import functional
from transformers import PreTrainedModel

from interventions.gradient.descend import GradientMethod, Progress, descend
from workbench.concepts import Concept
from workbench.edits import WeightEdit
from workbench.model import HookedModel
from workbench.objectives import TokenLoss, answer_loss
from workbench.sites import Site


class Npo(GradientMethod):
    """NPO with a retain loss."""

    steps: int = Field(80, ge=1)
    """Number of updates."""
    beta: float = Field(0.5, gt=0)
    """Inverse temperature: how soon the push fades once an answer is less likely than it was."""
    retain_weight: float = Field(1.0, ge=0)
    """Weight of the ordinary loss on retain facts."""
    per_token: bool = False
    """Use mean token log-probabilities in the ratio (the variant of some published code) instead of sums."""

    def fit(
        self,
        model: HookedModel,
        concept: Concept,
        where: Sequence[Site] | None = None,
        *,
        progress: Progress | None = None,
    ) -> WeightEdit:
        """Train on forget and retain facts; see `descend` for the arguments."""

        def loss(hf: PreTrainedModel, batch: dict[str, Tensor]) -> Float[Tensor, ""]:
            value = npo_loss(answer_loss(hf, batch, "forget."), batch["original"], self.beta, self.per_token)
            return value + self.retain_weight * answer_loss(hf, batch, "retain.").mean if self.retain_weight else value

        return descend(model, concept, where, self, loss, retain=self.retain_weight > 0, progress=progress)


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
