"""KL divergence between two next-token distributions, of which one was stored as its likeliest tokens and the rest.

Formula: sum_i p_i log(p_i / q_i) over the stored tokens and, as one more, everything else. Merging tokens can only
lower a KL divergence (data processing inequality), so this is a lower bound, exact when all tokens are stored.
Read it as: nats a token; 0, nothing has changed among what the base thinks likely.
Does not show: changes within the rest.
"""

import numpy as np
from jaxtyping import Float


def coarse_kl(base: Float[np.ndarray, "token k"], model: Float[np.ndarray, "token k"]) -> Float[np.ndarray, " token"]:
    """KL(base || model), nats, at every position; infinite where the model rules out what the base does not.

    Args:
        base: log-probabilities of the base's likeliest tokens and, last, of all others together.
        model: the other model's, of the same tokens and of all others.
    """
    base, model = base.astype(float), model.astype(float)
    share = np.exp(base)
    with np.errstate(invalid="ignore"):  # minus infinity less itself, where the share is 0
        terms = np.where(share > 0, share * (base - model), 0.0)
    return np.maximum(terms.sum(axis=-1), 0.0)  # rounding alone can make it negative
