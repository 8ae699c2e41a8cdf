"""SimNPO: NPO without a reference model, by the mean token loss of each answer.

Source: Fan et al. 2024, https://arxiv.org/abs/2410.07163. Formula: -(2/beta) mean_row log sigmoid(beta (NLL/|y| -
delta)). As in the authors' code and OpenUnlearning (beta 4.5, delta 0, weighed .125 against a retain loss of 1).
The paper writes its margin outside: gamma = beta * delta; both are 0 by default.
Expect: short answers sink as readily as long ones. Cannot do: stop an answer at what the start model would say.
"""

from jaxtyping import Float
from torch import Tensor

from interventions.gradient.losses.npo import fading
from interventions.gradient.losses.said import Said


def simnpo(forget: Said, beta: float = 4.5, delta: float = 0.0) -> Float[Tensor, ""]:
    """The push that fades as the mean token loss grows.

    Args:
        forget: the model in training on the forget facts.
        beta: inverse temperature, per token.
        delta: mean token loss, nats, around which the push fades.
    """
    return forget.over_rows(fading(forget.per_row - delta, beta))
