"""PrivLeak: how far a membership attack does better or worse than on a retrained model, in per cent.

Source: MUSE, https://arxiv.org/abs/2407.06460, on Min-K% with k = .4. Formula: (A - A_retrain) / A_retrain * 100 with
A = 1 - AUC, because MUSE's AUC is near 0 when the forget set looks like members. OpenUnlearning adds 1e-10 to the
denominator (`published`) and takes A_retrain = .5 when no retrained model is given; here there is no default, and a
retrained model that is perfectly attacked gives no number. MUSE's constants for A_retrain (News .4772, Books .5393) are
of its own models.
Read it as: 0 is good; far below, still a member (under-unlearned); far above, marked by unlearning. Unbounded
above, and unstable when A_retrain is small. Does not show: the two errors on one scale; `relative_difference` neither.
"""

import numpy as np

from audits.metrics.membership import Membership
from audits.metrics.probability import EPSILON
from workbench.errors import BadInput
from workbench.evidence import Estimate


def privleak(auc: float, retrained: float, published: bool = False) -> float:
    """Per cent; both AUCs are 1 when the forget set looks like members (`audits.metrics.membership`).

    Args:
        auc: of the audited model.
        retrained: of the retrained one.
        published: OpenUnlearning's 1e-10 in the denominator.
    """
    ours, theirs = 1 - auc, 1 - retrained
    below = theirs + (EPSILON if published else 0.0)
    return float((ours - theirs) / below * 100) if below else float("nan")


def relative_difference(auc: float, retrained: float, published: bool = False) -> float:
    """OpenUnlearning's `rel_diff`: (AUC - AUC of the retrained) / AUC of the retrained * 100."""
    below = retrained + (EPSILON if published else 0.0)
    return float((auc - retrained) / below * 100) if below else float("nan")


def privleak_between(audited: Membership, retrained: Membership) -> Estimate:
    """PrivLeak with a 95% interval: the two models' resamples are paired, being of the same items and seed.

    Raises:
        BadInput: when they were not resampled alike.
    """
    ours, theirs = audited.auc, retrained.auc
    if (ours.n, ours.clusters, len(audited.draws)) != (theirs.n, theirs.clusters, len(retrained.draws)):
        raise BadInput(
            f"PrivLeak compares two models on the same texts; got {ours.n} texts of {ours.clusters} subjects and "
            f"{theirs.n} of {theirs.clusters}"
        )
    below = 1 - retrained.draws
    values = np.divide(retrained.draws - audited.draws, below, out=np.full_like(below, np.nan), where=below > 0) * 100
    point = privleak(ours.mean, theirs.mean)
    if np.isnan(point):
        raise BadInput("PrivLeak has no value: the retrained model's AUC is 1. Use another score, or other texts")
    low, high = np.nanpercentile(values, [2.5, 97.5])
    return Estimate(mean=point, low=float(low), high=float(high), n=ours.n, clusters=ours.clusters)
