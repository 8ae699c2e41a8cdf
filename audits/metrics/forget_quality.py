"""TOFU's forget quality: can the truth ratios of the forget facts be told from those of a retrained model?

Source: TOFU, https://arxiv.org/abs/2401.06121. Formula: p-value of the two-sided two-sample Kolmogorov-Smirnov test on
the items' truth ratios (scipy's default: exact up to 10,000 items). The test ranks, so R and 1/R give the same.
Read it as: near 1, indistinguishable from retrained; small, told apart. It depends on the number of items: fully
separated samples of n items each give 2 / binomial(2n, n), and no smaller value is possible. Compare equal n only.
Does not show: in which direction they differ. Needs a retrained model; without one there is no value, and none is
made up (OpenUnlearning says None).
"""

from dataclasses import dataclass
from math import comb

import numpy as np
from jaxtyping import Float

from workbench.errors import BadInput


@dataclass(frozen=True)
class ForgetQuality:
    """A comparison with a retrained model."""

    p_value: float
    """TOFU's forget quality."""
    statistic: float
    """Largest distance between the two distribution functions, 0 to 1."""
    floor: float
    """Smallest p-value that so many items can give (for equal numbers of items; else of the smaller)."""


def forget_quality(ratios: Float[np.ndarray, " m"], retrained: Float[np.ndarray, " n"]) -> ForgetQuality:
    """Two-sample Kolmogorov-Smirnov test of truth ratios.

    Args:
        ratios: of the audited model on the forget facts.
        retrained: of the model retrained without them, on the same facts.

    Raises:
        BadInput: when one of them is empty or holds what is not a number.
    """
    from scipy.stats import ks_2samp

    for name, values in (("audited", ratios), ("retrained", retrained)):
        if not len(values) or not np.isfinite(values).all():
            raise BadInput(
                f"Forget quality needs finite truth ratios of both models; those of the {name} one are "
                f"{len(values)}, {int(np.isfinite(values).sum())} of them finite. Read them on facts with wrong answers"
            )
    found = ks_2samp(ratios, retrained)
    return ForgetQuality(float(found.pvalue), float(found.statistic), floor(min(len(ratios), len(retrained))))


def floor(n: int) -> float:
    """The p-value of two fully separated samples of n items each: 2 / binomial(2n, n)."""
    return float(2 / comb(2 * n, n)) if n < 500 else float(np.exp(np.log(2) - _log_binomial(n)))


def _log_binomial(n: int) -> float:
    from math import lgamma

    return lgamma(2 * n + 1) - 2 * lgamma(n + 1)
