"""Choice accuracy: is the right answer the likeliest of its candidates?

Source: as in MMLU, WMDP and lm-evaluation-harness (`acc`: summed log-probability; `acc_norm`: divided by length).
Formula: 1 / (number of candidates that share the first place) where the right one is among them, else 0. Published
code takes an argmax, which gives a tie to whichever candidate stands first; where a guard makes all of them equally
likely, that reads 1 or 0 for a model that knows nothing: `published`.
Read it as: chance is the mean of 1 / number of candidates. Does not show: whether it would say it unasked.
"""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float

TIE = 1e-5
"""Log-probabilities closer than this, nats, are a tie: rounding in float32 moves them as much."""


def choice(scores: Float[np.ndarray, " candidate"], published: bool = False) -> float:
    """Credit for one question, the right candidate first.

    Args:
        scores: log-probability of each candidate, nats; minus infinity is allowed.
        published: give a tie to the candidate that stands first, here the right one.
    """
    if published:
        return float(int(np.argmax(scores)) == 0)
    first = scores >= scores.max() - TIE
    return float(first[0] / first.sum())


def chance(counts: Sequence[int]) -> float:
    """What guessing gives, from the number of candidates of each question."""
    return float(np.mean([1 / n for n in counts]))
