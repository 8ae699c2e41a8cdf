"""Exact memorisation: the share of an answer's tokens that are the most likely one.

Source: Tirumala et al. 2022, https://arxiv.org/abs/2205.10770; as a metric OpenUnlearning,
https://arxiv.org/abs/2506.12618. Formula: mean_t [argmax p(. | before t) = t]. OpenUnlearning drops the last label
(`answer_tokens(published=True)`) and rounds the share to float32; a row without labels has no value there or here.
Read it as: 1, every token follows from those before it. Does not show: whether the answer comes when asked: the
earlier tokens are given.
"""

import numpy as np
from jaxtyping import Bool


def exact_memorisation(hit: Bool[np.ndarray, " token"]) -> float:
    """Share of one answer, in [0, 1]; NaN without tokens."""
    return float(hit.mean()) if len(hit) else float("nan")
