"""Uncertainty in one place: cluster bootstrap, paired differences, sign flips, equivalence, Holm, AUC.

Facts about one subject are not independent, so every interval resamples subjects (clusters) with replacement. The
vectorised bootstrap is written here because `scipy.stats.bootstrap` resamples items only; on one item a cluster the
two agree (tested). Read intervals beside n and the number of clusters: when every item agrees an interval has no
width, which says that the items agree, not that the truth is known.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from workbench.evidence import Estimate

DRAWS = 10_000
"""Bootstrap resamples."""

EXACT = 16
"""Up to so many clusters all signs are tried: 2 to the 15th."""

COLUMNS = 256
"""Columns tested at once: memory."""

Values = Float[np.ndarray, " n"]


@dataclass(frozen=True)
class Draws:
    """A mean and its bootstrap distribution."""

    mean: float
    """The observed mean."""
    draws: Float[np.ndarray, " draws"]
    """Means of the resamples."""
    n: int
    """Items."""
    clusters: int
    """Clusters resampled."""

    def estimate(self, level: float = 0.95) -> Estimate:
        """The mean with its percentile interval."""
        tail = (1 - level) / 2 * 100
        low, high = np.percentile(self.draws, [tail, 100 - tail])
        return Estimate(mean=self.mean, low=float(low), high=float(high), n=self.n, clusters=self.clusters)

    @property
    def standard_error(self) -> float:
        """Standard deviation of the bootstrap means."""
        return float(self.draws.std(ddof=1))

    @property
    def detectable(self) -> float:
        """Smallest true difference found with 80% power at 5%, two-sided: (1.96 + 0.84) standard errors."""
        return 2.8 * self.standard_error

    def p_equivalence(self, margin: float) -> float:
        """Two one-sided bootstrap tests: how often a resample lies outside the margin, on the worse side.

        Never 0: with D draws the smallest reportable value is 1 / (D + 1).
        """
        above = np.count_nonzero(self.draws >= margin)
        below = np.count_nonzero(self.draws <= -margin)
        return float((max(above, below) + 1) / (len(self.draws) + 1))


def bootstrap(values: Values, clusters: Sequence[str], seed: int = 0, draws: int = DRAWS) -> Draws:
    """Cluster bootstrap of a mean.

    Args:
        values: one number an item, none missing.
        clusters: the cluster of each item.
        seed: of the resampling.
        draws: number of resamples.

    Raises:
        ValueError: when there is no item, or the lengths differ.
    """
    if not len(values) or len(values) != len(clusters):
        raise ValueError(f"cannot bootstrap {len(values)} values with {len(clusters)} cluster names")
    _, member = np.unique(np.asarray(clusters), return_inverse=True)
    sums = np.bincount(member, weights=values)
    sizes = np.bincount(member)
    picks = np.random.default_rng(seed).integers(0, len(sums), (draws, len(sums)))
    return Draws(float(np.mean(values)), sums[picks].sum(axis=1) / sizes[picks].sum(axis=1), len(values), len(sums))


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm's step-down adjustment, in the order given."""
    order = np.argsort(p_values)
    adjusted, running = np.empty(len(p_values)), 0.0
    for rank, i in enumerate(order):
        running = max(running, min(1.0, (len(p_values) - rank) * p_values[i]))
        adjusted[i] = running
    return [float(p) for p in adjusted]


@dataclass(frozen=True)
class SignFlips:
    """p-values of paired differences."""

    p: Float[np.ndarray, " m"]
    """Two-sided."""
    smallest: float
    """The smallest p-value that so many clusters can give, however clear the difference."""
    flips: int
    """Ways to set the signs that were tried; all of them where `exact`."""
    exact: bool
    """Whether those are all there are."""


def sign_flips(sums: Float[np.ndarray, "cluster m"], seed: int = 0, draws: int = DRAWS) -> SignFlips:
    """Permutation test of paired differences: is each column's total further from 0 than with signs set at random?

    A cluster's differences keep their signs relative to each other, so that facts of one subject are not taken for
    independent ones. Up to 16 clusters all signs are tried, else `draws` random ones (and the observed ones count too).

    Args:
        sums: differences added up within each cluster; a column a question.
        seed: of the signs.
        draws: how many are drawn where they are not all tried.

    Raises:
        ValueError: when there is no cluster.
    """
    if not len(sums):
        raise ValueError("cannot flip the signs of no cluster")
    exact = len(sums) <= EXACT
    if exact:  # the mirror image gives the same distance from 0, so the first sign may stay
        bits = np.arange(2 ** (len(sums) - 1))[:, None] >> np.arange(len(sums))[None, :]
        signs = 1.0 - 2.0 * (bits & 1)
    else:
        signs = np.random.default_rng(seed).choice([-1.0, 1.0], (draws, len(sums)))
    hits = [_as_far(signs, sums[:, start : start + COLUMNS]) for start in range(0, sums.shape[1], COLUMNS)]
    counts = np.concatenate(hits) if hits else np.zeros(0)
    more = 0 if exact else 1
    return SignFlips((counts + more) / (len(signs) + more), 1 / (len(signs) + more), len(signs), exact)


def _as_far(signs: Float[np.ndarray, "flips cluster"], sums: Float[np.ndarray, "cluster m"]) -> np.ndarray:
    """How often each column's total is at least as far from 0 as the observed one; equal but for rounding counts."""
    least = np.abs(sums.sum(axis=0)) - 1e-9 * np.abs(sums).sum(axis=0)
    return np.asarray((np.abs(signs @ sums) >= least).sum(axis=0))


def auc(higher: Float[np.ndarray, " m"], lower: Float[np.ndarray, " n"]) -> float:
    """Probability that an item of the first group exceeds one of the second (ties count half)."""
    from scipy.stats import mannwhitneyu

    return float(mannwhitneyu(higher, lower).statistic / (len(higher) * len(lower)))


def bootstrap_auc(
    higher: Float[np.ndarray, " m"],
    lower: Float[np.ndarray, " n"],
    clusters: tuple[Sequence[str], Sequence[str]],
    seed: int = 0,
    draws: int = 1000,
) -> Draws:
    """Cluster bootstrap of an AUC; the two groups are resampled independently."""
    wins = (higher[:, None] > lower[None, :]) + 0.5 * (higher[:, None] == lower[None, :])
    rng = np.random.default_rng(seed)
    weights = [_weights(names, rng, draws) for names in clusters]
    top = np.einsum("di,ij,dj->d", weights[0], wins, weights[1], optimize=True)
    values = top / (weights[0].sum(axis=1) * weights[1].sum(axis=1))
    count = len(set(clusters[0])) + len(set(clusters[1]))
    return Draws(auc(higher, lower), values, len(higher) + len(lower), count)


def _weights(names: Sequence[str], rng: np.random.Generator, draws: int) -> Float[np.ndarray, "draws n"]:
    """How often each item enters each resample of clusters."""
    unique, member = np.unique(np.asarray(names), return_inverse=True)
    picks = rng.integers(0, len(unique), (draws, len(unique)))
    counts = np.apply_along_axis(np.bincount, 1, picks, minlength=len(unique))
    return counts[:, member].astype(float)
