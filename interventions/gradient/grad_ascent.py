"""Gradient ascent: make the forget answers less likely, with an optional retain loss (GradDiff).

Source: Jang et al. 2023, https://arxiv.org/abs/2210.01504 (GA); Liu et al. 2022, https://arxiv.org/abs/2203.12817
(GradDiff). Variant: minus the mean over all answer tokens of the batch, as in OpenUnlearning.
Expect: the loss has no floor, so the model diverges when run for long; without a retain loss neighbours and fluency go
too. Cannot do: stop by itself. Stop by `steps`, and read `near` and `far`.
"""

from collections.abc import Sequence

from jaxtyping import Float
from pydantic import Field
from torch import Tensor
from transformers import PreTrainedModel

from interventions.gradient.descend import GradientMethod, Progress, descend
from workbench.concepts import Concept
from workbench.edits import WeightEdit
from workbench.model import HookedModel
from workbench.objectives import TokenLoss, answer_loss
from workbench.sites import Site


class GradAscent(GradientMethod):
    """Gradient ascent on the forget answers."""

    retain_weight: float = Field(0.0, ge=0)
    """Weight of the ordinary loss on retain facts; 0 is plain gradient ascent, 1 is GradDiff."""

    def fit(
        self,
        model: HookedModel,
        concept: Concept,
        where: Sequence[Site] | None = None,
        *,
        progress: Progress | None = None,
    ) -> WeightEdit:
        """Train on the forget facts; see `descend` for the arguments."""

        def loss(hf: PreTrainedModel, batch: dict[str, Tensor]) -> Float[Tensor, ""]:
            value = ascent_loss(answer_loss(hf, batch, "forget."))
            return value + self.retain_weight * answer_loss(hf, batch, "retain.").mean if self.retain_weight else value

        return descend(model, concept, where, self, loss, retain=self.retain_weight > 0, progress=progress)


def ascent_loss(forget: TokenLoss) -> Float[Tensor, ""]:
    """Minus the mean token loss."""
    return -forget.mean
