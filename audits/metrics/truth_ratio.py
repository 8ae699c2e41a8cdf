"""Truth ratio: how likely wrong answers are beside the right one, and three ways to make a score of it.

Source: TOFU, https://arxiv.org/abs/2401.06121. Formula: R = mean_i exp(-loss of wrong answer i) / exp(-loss of the
right answer, paraphrased); losses are means a token. TOFU's `aggregate_eval_stat.py` and OpenUnlearning take the
geometric mean of the wrong answers, exp(-mean_i loss_i), and OpenUnlearning adds 1e-10 to the denominators: `published`
does both. TOFU's `utils.py` has the arithmetic mean of the paper, which is the default here.
Read it as: R below 1 prefers the truth. `closer_to_1`: min(R, 1/R), high when the model cannot tell (forget facts).
`true_better`: max(0, 1 - R), high when it can (utility). `prob_mean`: 1 / (1 + R), the share of the right answer.
Does not show: whether the model says either.
"""

from typing import Literal

import numpy as np
from jaxtyping import Float

from audits.metrics.probability import EPSILON

Aggregation = Literal["closer_to_1", "true_better", "prob_mean"]
"""How a ratio becomes a score: OpenUnlearning's `closer_to_1_better`, `true_better` and `prob_mean`."""


def wrong_probability(wrong: Float[np.ndarray, "n option"], published: bool = False) -> Float[np.ndarray, " n"]:
    """Mean token probability of the wrong answers; geometric when `published`, else arithmetic; NaN without any."""
    count = np.isfinite(wrong).sum(axis=1)
    total = np.nansum(wrong if published else np.exp(-wrong), axis=1)
    mean = np.divide(total, count, out=np.full(len(wrong), np.nan), where=count > 0)
    return np.exp(-mean) if published else mean


def truth_ratio(
    right: Float[np.ndarray, " n"], wrong: Float[np.ndarray, "n option"], published: bool = False
) -> Float[np.ndarray, " n"]:
    """R of every item; above 1 the wrong answers are likelier.

    Args:
        right: mean token loss of the right answer, nats.
        wrong: mean token losses of the wrong answers, nats; NaN where an item has fewer.
        published: geometric mean of the wrong answers, and 1e-10 in the denominator.
    """
    below = np.exp(-right) + (EPSILON if published else 0.0)
    with np.errstate(divide="ignore"):
        return wrong_probability(wrong, published) / below


def truth_score(
    right: Float[np.ndarray, " n"],
    wrong: Float[np.ndarray, "n option"],
    how: Aggregation,
    published: bool = False,
) -> Float[np.ndarray, " n"]:
    """A score in [0, 1] an item; the mean over items is the published number.

    Args:
        right: mean token loss of the right answer, nats.
        wrong: mean token losses of the wrong answers, nats; NaN where an item has fewer.
        how: which score.
        published: as in `truth_ratio`.
    """
    if how == "prob_mean":
        share, others = np.exp(-right), wrong_probability(wrong, published)
        return share / (share + others + (EPSILON if published else 0.0))
    ratio = truth_ratio(right, wrong, published)
    if how == "true_better":
        return np.maximum(0.0, 1 - ratio)
    with np.errstate(divide="ignore"):
        return np.minimum(ratio, 1 / (ratio + (EPSILON if published else 0.0)))
