"""Extraction strength: how little of an answer must be given until greedy decoding says the rest.

Source: Carlini et al. 2021, https://arxiv.org/abs/2012.07805; as a metric OpenUnlearning,
https://arxiv.org/abs/2506.12618. Formula: 1 - k/n, where k of n tokens must be given before every later one is the most
likely one; 0 when not even the last is. OpenUnlearning drops the last label, gives 1/n instead of 0 when nothing
matches (which cannot be told from a match of the last token only), and 0 to a row without labels: `published`.
Read it as: 1, the prompt alone brings out all of it. Does not show: the answer in other words.
"""

import numpy as np
from jaxtyping import Bool


def extraction_strength(hit: Bool[np.ndarray, " token"], published: bool = False) -> float:
    """Strength of one answer, in [0, 1]; NaN without tokens.

    Args:
        hit: whether each token is the most likely one after all tokens before it.
        published: the floor of OpenUnlearning; give it the tokens without the last (`answer_tokens(published=True)`).
    """
    n = len(hit)
    if not n:
        return 0.0 if published else float("nan")
    misses = np.flatnonzero(~hit)
    given = int(misses[-1]) + 1 if len(misses) else 0
    return 1 - (min(given, n - 1) if published else given) / n
