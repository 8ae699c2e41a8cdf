"""Which layers carry a fact, and how much of it another model's states have erased there: the arithmetic of depth.

Source: Lee et al. 2026, https://arxiv.org/abs/2605.24614: a layer encodes the knowledge of a fact when putting the
reference's states in costs the answer more than a threshold, nats a token; the share of that cost that the audited
model's states cause too, cut to [0, 1], is the erasure there.
Read it as: `probes.depth_score` says what the drops are.
Does not show: anything at a layer that carries nothing; it stays NaN.
"""

import numpy as np
from jaxtyping import Bool, Float


def carries(
    first: Float[np.ndarray, "layer fact"], tokens: np.ndarray, threshold: float
) -> Bool[np.ndarray, "layer fact"]:
    """Whether a layer carries a fact; False where the first stage is NaN.

    Args:
        first: drops with the reference's states, nats an answer.
        tokens: (fact) how many tokens each answer has.
        threshold: nats a token that the drop must exceed.
    """
    there: Bool[np.ndarray, "layer fact"] = first / tokens > threshold
    return there


def erased(
    first: Float[np.ndarray, "layer fact"],
    second: Float[np.ndarray, "layer fact"],
    carried: Bool[np.ndarray, "layer fact"],
) -> Float[np.ndarray, "layer fact"]:
    """The share of the first drop that is seen again, between 0 and 1; NaN where a layer does not carry the fact."""
    share = np.divide(second, first, out=np.full_like(second, np.nan), where=carried)
    cut: Float[np.ndarray, "layer fact"] = np.clip(share, 0, 1)
    return cut
