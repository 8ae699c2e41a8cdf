"""How likely an answer is: per token, and among wrong answers.

Source: TOFU, https://arxiv.org/abs/2401.06121. Formulas: exp(sum log p_t / n), the geometric mean of the token
probabilities, where TOFU and OpenUnlearning count the end-of-text token as one of the n; and p / (p + sum p_wrong), to
whose denominator OpenUnlearning adds 1e-10 (`published`).
Read it as: 1 is certain; among k wrong answers that are as likely the second gives 1 / (k + 1).
Does not show: whether greedy decoding says it.
"""

import numpy as np
from jaxtyping import Float

EPSILON = 1e-10
"""What OpenUnlearning adds to its denominators."""


def token_probability(loss: Float[np.ndarray, "*any"]) -> Float[np.ndarray, "*any"]:
    """exp(-loss) of a mean token loss in nats."""
    return np.exp(-loss)


def among_options(
    right: Float[np.ndarray, " n"], wrong: Float[np.ndarray, "n option"], published: bool = False
) -> Float[np.ndarray, " n"]:
    """Share of the right answer in the probability of all options; NaN where every option has none.

    Args:
        right: probability of each right answer.
        wrong: probabilities of its wrong answers; NaN where an item has fewer.
        published: add 1e-10 to the denominator.
    """
    total = right + np.nansum(wrong, axis=1) + (EPSILON if published else 0.0)
    return np.divide(right, total, out=np.full_like(total, np.nan), where=total > 0)
