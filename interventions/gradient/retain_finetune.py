"""Retain finetuning: further training on retain facts only, optionally of the last k blocks (CF-k). A control.

Source: Goel et al. 2022 (CF-k), https://arxiv.org/abs/2201.06640. The forget facts are not read: whatever they lose is
what any further training costs them.
Expect: next to nothing forgotten. Cannot do: unlearn; an unlearning method should be told apart from it.
"""

from collections.abc import Sequence
from typing import ClassVar

import torch
from jaxtyping import Float
from pydantic import Field
from torch import Tensor

from interventions.gradient.descend import GradientMethod, Need
from interventions.gradient.given import Given
from workbench.errors import BadInput
from workbench.model import HookedModel
from workbench.sites import Site


class RetainFinetune(GradientMethod):
    """Catastrophic forgetting, if any."""

    needs: ClassVar[frozenset[Need]] = frozenset({"retain"})

    retain_weight: float = Field(1.0, gt=0)
    """Weight of the retain loss."""
    last: int | None = Field(None, ge=1)
    """Train only that many blocks, the last ones (the k of CF-k); everything when left out."""

    def place(self, model: HookedModel, where: Sequence[Site] | None) -> Sequence[Site] | None:
        """The last blocks, if a number of them is given.

        Raises:
            BadInput: when places are given as well, or the model has fewer blocks.
        """
        if self.last is None:
            return where
        if where is not None or self.last > model.n_layers:
            raise BadInput(
                f"last={self.last} trains the last blocks of the {model.n_layers} of {model.name}: give at most that "
                "many, and no places beside it"
            )
        return [Site(layer, "resid_post") for layer in range(model.n_layers - self.last, model.n_layers)]

    def forget_loss(self, given: Given) -> Float[Tensor, ""]:
        """None."""
        return torch.zeros((), device=given.model.device)
