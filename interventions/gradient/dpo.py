"""DPO for unlearning: prefer a refusal (IdkDPO) or a wrong answer of the same kind (AltPO) to the forget answer.

Source: Maini et al. 2024 (TOFU, IdkDPO), https://arxiv.org/abs/2401.06121; Mekala et al. 2024 (AltPO),
https://arxiv.org/abs/2409.13474, whose alternatives a model wrote: here they are the facts' distractors
(`answers=distractors`). Formula in losses/dpo.py; OpenUnlearning and the NPO code multiply by 2/beta (`published`).
Expect: the other answer comes out. Cannot do: tell whether the forget answer sank or the other one rose.
"""

from typing import ClassVar

from jaxtyping import Float
from pydantic import Field
from torch import Tensor

from interventions.gradient.alternatives import WithAlternatives
from interventions.gradient.descend import Need
from interventions.gradient.given import Given
from interventions.gradient.losses.dpo import dpo


class Dpo(WithAlternatives):
    """Preference for other answers, with a retain loss."""

    needs: ClassVar[frozenset[Need]] = frozenset({"other", "original"})

    beta: float = Field(0.1, gt=0)
    """Inverse temperature."""
    published: bool = False
    """Times 2/beta, as in OpenUnlearning and the NPO code; weighs it up against the retain loss."""

    def forget_loss(self, given: Given) -> Float[Tensor, ""]:
        """The preference for the other answers."""
        return dpo(given.other, given.forget, given.other_original, given.original, self.beta, self.published)
