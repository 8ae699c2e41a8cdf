"""Did a feature come to fire otherwise on the facts to forget, or do the subjects only differ?

Both models read the same tokens through the same SAE, so the change is paired token by token: +1 where only this model
fires, -1 where only the donor did. Facts about one subject are not independent, so subjects are what is drawn.
Interval: cluster bootstrap over subjects (`workbench.stats.bootstrap`), 95%, of the change of the share of tokens.
p: sign flips of each subject's total (`workbench.stats.sign_flips`). q: Benjamini and Hochberg 1995 over every feature
that fires on a token of these facts in either model (`scipy.stats.false_discovery_control`); one that fires in neither
cannot have changed, and which are left out does not depend on the direction of a change.
Read it as: of the features with q < .05 about one in twenty is expected to be no change. A feature that fires on one
subject alone has p = 1, however clear it is: one subject says nothing of the next. `smallest_p` is the least that so
many subjects can give.
Does not show: intervals of features picked because they changed most are not corrected for that (the q-values are);
what another run of the same unlearning would do; how strongly a feature fires, only on how many tokens.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from workbench.sae_activations import Activations
from workbench.stats import SignFlips, bootstrap, sign_flips

FALSE_DISCOVERIES = 0.05
"""A change with a smaller q is said to be one."""

DIGITS = 4
"""Significant digits of a p-value that is kept."""


@dataclass(frozen=True)
class FeatureChanges:
    """The change of every feature that fires in either model."""

    before: Activations
    """On the donor."""
    after: Activations
    """On this model, on the same tokens."""
    clusters: tuple[str, ...]
    """What each fact is drawn with: its subject."""
    tested: Int[np.ndarray, " tested"]
    """Numbers of the features that fire in either, ascending."""
    flips: SignFlips
    """Of these."""
    q: Float[np.ndarray, " tested"]
    """Benjamini-Hochberg."""

    @classmethod
    def of(cls, before: Activations, after: Activations, clusters: Sequence[str], seed: int = 0) -> "FeatureChanges":
        """Test every feature that fires on these facts in either model.

        Args:
            before: the donor's activations.
            after: this model's, on the same tokens.
            clusters: a name a fact.
            seed: of the signs, where not all can be tried.
        """
        from scipy.stats import false_discovery_control

        tested = np.union1d(before.features, after.features)
        names, member = np.unique(np.asarray(clusters), return_inverse=True)
        shape = (len(names), len(tested))
        sums = _fired(after, tested, member, shape) - _fired(before, tested, member, shape)
        flips = sign_flips(sums, seed)
        q = false_discovery_control(flips.p, method="bh") if len(tested) else np.zeros(0)
        return cls(before, after, tuple(clusters), tested, flips, q)

    def intervals(self, features: Sequence[int], seed: int = 0) -> dict[str, dict[str, float]]:
        """Feature, as text -> the change of its share of tokens, and the 95% interval."""
        names = [self.clusters[row] for row in self.after.row]
        found = {}
        for feature in features:
            moved = (self.after.of(feature) > 0).astype(float) - (self.before.of(feature) > 0)
            told = bootstrap(moved, names, seed).estimate()
            found[str(feature)] = {"change": told.mean, "low": told.low, "high": told.high}
        return found

    def notes(self) -> dict[str, Any]:
        """How many were tested on how much, how many changed, and the p and q of each."""
        p, q = ([float(f"{value:.{DIGITS}g}") for value in column] for column in (self.flips.p, self.q))
        return {
            "tested": len(self.tested),
            "found": int((self.q < FALSE_DISCOVERIES).sum()),
            "q_below": FALSE_DISCOVERIES,
            "facts": len(self.clusters),
            "subjects": len(set(self.clusters)),
            "tokens": int(self.after.lengths.sum()),
            "smallest_p": self.flips.smallest,
            "signs": self.flips.flips,
            "all_signs": self.flips.exact,
            "by_feature": {"feature": self.tested.tolist(), "p": p, "q": q},
        }


def _fired(acts: Activations, tested: np.ndarray, member: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """At how many tokens of each subject each feature fires."""
    column = np.searchsorted(tested, acts.feature)
    cell = member[acts.row[acts.token]] * shape[1] + column
    return np.bincount(cell, minlength=shape[0] * shape[1]).reshape(shape).astype(float)


def most_changed(change: Float[np.ndarray, " feature"], count: int) -> list[int]:
    """Places of the largest changes, either way; one that did not change is never among them."""
    order = np.argsort(-np.abs(change), kind="stable")[:count]
    return [int(i) for i in order if change[i] != 0]
