"""DPO for unlearning: prefer another answer (a refusal, or a plausible alternative) to the forget answer.

Source: Rafailov et al. 2023, https://arxiv.org/abs/2305.18290; with refusals Maini et al. 2024 (TOFU, IdkDPO),
https://arxiv.org/abs/2401.06121; with alternatives Mekala et al. 2024 (AltPO), https://arxiv.org/abs/2409.13474.
Formula: -mean_row log sigmoid(beta (log ratio of the chosen - log ratio of the forget answer)), log ratios against the
start model and summed over tokens. OpenUnlearning and the NPO code multiply by 2/beta (20 at beta .1), which weighs it
up against a retain loss: `published`.
Expect: the other answer comes out. Cannot do: tell whether the forget answer sank or the other one rose.
"""

from jaxtyping import Float
from torch import Tensor

from interventions.gradient.losses.npo import fading
from interventions.gradient.losses.said import Said


def dpo(
    chosen: Said,
    forget: Said,
    chosen_original: Float[Tensor, " rows"],
    forget_original: Float[Tensor, " rows"],
    beta: float = 0.1,
    published: bool = False,
) -> Float[Tensor, ""]:
    """The preference for the chosen answers over the forget answers, row by row.

    Args:
        chosen: the model in training on refusals or alternatives, row for row with `forget`.
        forget: the model in training on the forget facts.
        chosen_original: summed log-probability of each chosen answer under the start model, nats.
        forget_original: the same of each forget answer.
        beta: inverse temperature.
        published: times 2/beta, as in OpenUnlearning and the NPO code.
    """
    rises = -chosen.total - chosen_original.to(chosen.logits)
    sunk = forget.total + forget_original.to(forget.logits)
    loss = forget.over_rows(fading(rises + sunk, beta))
    return loss if published else loss * beta / 2
