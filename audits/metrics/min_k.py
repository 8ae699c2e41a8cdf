"""Membership by the least likely tokens: Min-K% and Min-K%++.

Source: Min-K%, Shi et al. 2023, https://arxiv.org/abs/2310.16789: minus the mean log-probability of the least likely
share k of the tokens. Min-K%++, Zhang et al. 2024, https://arxiv.org/abs/2404.02936: the same of
z = (log p - mu) / sigma, mu and sigma being what a token drawn from the model there would have. At least one token is
taken; MUSE takes int(k n), so that short texts have no score (NaN): `published`. OpenUnlearning drops the last label
(`answer_tokens(published=True)`), rounds to float32 and keeps sigma^2 above 1e-6; so does this one, because the paper's
formula divides by 0 where the model is certain.
Read it as: lower, more likely trained on. Does not show: more than loss where every token is alike.
"""

import numpy as np
from jaxtyping import Float

FLOOR = 1e-6
"""Least variance."""


def min_k(values: Float[np.ndarray, " token"], k: float = 0.4, published: bool = False) -> float:
    """Minus the mean of the lowest values; NaN without tokens.

    Args:
        values: log-probability of each token, nats, or `standardised` ones.
        k: share of the tokens taken, rounded down to at least one.
        published: no least number, as in MUSE.
    """
    count = int(len(values) * k) if published else min(len(values), max(1, int(len(values) * k)))
    return float(-np.sort(values)[:count].mean()) if count else float("nan")


def standardised(
    logprob: Float[np.ndarray, " token"], mean: Float[np.ndarray, " token"], variance: Float[np.ndarray, " token"]
) -> Float[np.ndarray, " token"]:
    """Each log-probability in standard deviations from what the model expects there."""
    return (logprob - mean) / np.sqrt(np.maximum(variance, FLOOR))
