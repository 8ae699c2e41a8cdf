"""Numbers of two sets of directions, from their cosines: how much of each lies in the other, and what chance gives.

Cosines are (r base directions, k directions of a change), of orthonormal sets in d dimensions.

Read it as: `share_inside` of 1 is a direction that lies wholly among the base's; `by_chance` is what directions drawn
evenly from all of space give: r / d, give or take. The variance is that of the trace of the product of two random
projections of rank r and k, over k².
Does not show: whether the base's directions are told apart well (its singular values say).
"""

import math

import numpy as np
from jaxtyping import Float


def share_inside(cosines: Float[np.ndarray, "base change"]) -> Float[np.ndarray, " change"]:
    """Squared length of each direction of the change that lies in the span of the base's."""
    return np.minimum(np.square(cosines).sum(axis=0), 1.0)


def mean_overlap(cosines: Float[np.ndarray, "base change"]) -> float:
    """The mean of `share_inside`: the normalised subspace similarity of Hu et al. 2021, section 7.2."""
    return float(share_inside(cosines).mean())


def principal_cosines(cosines: Float[np.ndarray, "base change"]) -> Float[np.ndarray, " angle"]:
    """Cosines of the principal angles, largest first."""
    return np.minimum(np.linalg.svd(cosines, compute_uv=False), 1.0)


def by_chance(base: int, change: int, size: int) -> tuple[float, float]:
    """Mean and standard deviation of `mean_overlap` for directions drawn at random.

    Args:
        base: how many directions the base has.
        change: how many the change has.
        size: dimensions of the space.
    """
    r, k, d = min(base, size), min(change, size), size
    if d < 2 or not k:
        return 1.0, 0.0
    variance = 2 * r * (d - r) * (d - k) / (k * d**2 * (d - 1) * (d + 2))
    return r / d, math.sqrt(variance)


def principal_by_chance(
    base: int, change: int, size: int, draws: int = 50, seed: int = 0
) -> Float[np.ndarray, "2 angle"]:
    """Mean and largest twentieth (95% quantile) of `principal_cosines` over random directions, each angle by itself.

    Args:
        base: how many directions the base has.
        change: how many the change has.
        size: dimensions of the space.
        draws: sets of random directions.
        seed: of the draws.
    """
    drawn = np.random.default_rng(seed).standard_normal((draws, size, min(change, size)))
    found = np.linalg.svd(np.linalg.qr(drawn).Q[:, : min(base, size)], compute_uv=False)
    return np.minimum([found.mean(axis=0), np.quantile(found, 0.95, axis=0)], 1.0)
