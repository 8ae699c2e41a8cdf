"""How well a number tells models that know from models that do not, and whether it holds when the model is attacked.

Source: the meta-evaluation of OpenUnlearning (Dorna et al. 2025, https://arxiv.org/abs/2506.12618), as the authors of
the Unlearning Depth Score restate it (Lee et al. 2026, https://arxiv.org/abs/2605.24614). For a metric m that is higher
the more is unlearned, b before and a after an attack:

    faithfulness    AUROC of m between models that know and models that do not
    relearning      R = min(d_retain / d_unlearned, 1), d = m_b - m_a
    quantisation    Q = min(m_a / m_b, 1)
    robustness      2RQ / (R + Q)

Read it as: 1 is perfect. A fall of m under relearning is no fault as far as a retrained model falls too.
Does not show: that a metric with R = Q = 1 measures anything; one that is constant has both.
"""

from collections.abc import Callable, Sequence

import numpy as np
from jaxtyping import Float

from workbench.evidence import Estimate
from workbench.stats import auc

DRAWS = 2000
"""Resamples of worlds."""

Values = Float[np.ndarray, " n"]


def faithfulness(knows: Sequence[float], clean: Sequence[float]) -> float:
    """AUROC; values are higher the more is known, ties count half.

    Raises:
        ValueError: when one of the groups is empty.
    """
    if not len(knows) or not len(clean):
        raise ValueError(f"{len(knows)} models that know and {len(clean)} that do not: an AUC needs some of each")
    return auc(np.asarray(knows, dtype=float), np.asarray(clean, dtype=float))


def relearning(before: float, after: float, retain_before: float, retain_after: float) -> float:
    """R of one unlearned model; m is higher the more is unlearned.

    A model whose metric does not fall has nothing to be held against: R is 1. Where the retrained one does not fall
    but this one does, R is 0.
    """
    fell, allowed = before - after, retain_before - retain_after
    if fell <= 0:
        return 1.0
    return float(min(max(allowed, 0.0) / fell, 1.0))


def quantisation(before: float, after: float) -> float:
    """Q of one unlearned model; m is higher the more is unlearned. 1 where there was nothing to lose (m is 0)."""
    return 1.0 if before <= 0 else float(min(max(after, 0.0) / before, 1.0))


def robustness(relearnt: float, quantised: float) -> float:
    """Harmonic mean; 0 when either is."""
    return 0.0 if relearnt <= 0 or quantised <= 0 else 2 * relearnt * quantised / (relearnt + quantised)


def by_world(
    statistic: Callable[[Sequence[int]], float | None], worlds: Sequence[str], seed: int = 0, draws: int = DRAWS
) -> Estimate | None:
    """A statistic of some cases, with an interval that resamples worlds: all cases of a drawn world enter together.

    Args:
        statistic: of the cases with these numbers (repeated where a world is drawn twice); None where it is undefined.
        worlds: the world of each case.
        seed: of the resampling.
        draws: how many resamples.
    """
    value = statistic(range(len(worlds)))
    if value is None:
        return None
    names = sorted(set(worlds))
    members = [[i for i, world in enumerate(worlds) if world == name] for name in names]
    rng = np.random.default_rng(seed)
    drawn = [statistic([i for j in rng.integers(0, len(names), len(names)) for i in members[j]]) for _ in range(draws)]
    low, high = np.percentile([d for d in drawn if d is not None], [2.5, 97.5])
    return Estimate(mean=value, low=float(low), high=float(high), n=len(worlds), clusters=len(names))


def auc_by_world(
    values: Sequence[float], knows: Sequence[bool], worlds: Sequence[str], draws: int = DRAWS
) -> Estimate | None:
    """Faithfulness with its interval; None when one of the groups is empty."""
    value, known = np.asarray(values, dtype=float), np.asarray(knows, dtype=bool)

    def statistic(chosen: Sequence[int]) -> float | None:
        picked = np.asarray(chosen, dtype=int)
        mine, theirs = value[picked[known[picked]]], value[picked[~known[picked]]]
        if not len(mine) or not len(theirs):
            return None
        above = (mine[:, None] > theirs[None]).mean() + 0.5 * (mine[:, None] == theirs[None]).mean()
        return float(above)

    return by_world(statistic, worlds, draws=draws)


def mean_by_world(values: Sequence[float], worlds: Sequence[str], draws: int = DRAWS) -> Estimate | None:
    """A mean with its interval; None when there is no value."""
    if not len(values):
        return None
    value = np.asarray(values, dtype=float)
    return by_world(lambda chosen: float(value[np.asarray(chosen, dtype=int)].mean()), worlds, draws=draws)
