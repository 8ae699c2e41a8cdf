"""One model's features against those of the model before, read through the same autoencoder on the same facts.

Read it as: `_change` is this model's number less the donor's. `notes["before"]` is what was measured on the donor;
`still_firing` is how much of the firing of the donor's found features is left. `notes["change"]` says how many features
were tested and how each came out, `notes["intervals"]` holds the interval of each kept feature's change
(`probes.feature_change`).
`notes["warnings"]` speaks up where the autoencoder's squared error grew.
Does not show: why firing changed; where the error grew, the autoencoder's failure may be the reason.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from probes.feature_change import FeatureChanges, most_changed
from workbench.errors import BadInput
from workbench.fitted_sae import FittedSae
from workbench.sae_activations import Activations
from workbench.trace import Trace

COMPARED = ("forget", "retain", "forget_mean")
"""Measures whose change is told."""


def require_same_reading(donor: Trace, used: FittedSae, about: Mapping[str, Any]) -> None:
    """Refuse a donor that was read on other facts, through another SAE or elsewhere.

    Raises:
        BadInput: saying in what they differ.
    """
    same = {
        "facts": donor.notes.get("facts_digest") == about["facts_digest"],
        "SAE": donor.notes["sae"]["digest"] == used.digest,
        "site": donor.notes["site"] == str(used.site),
    }
    wrong = [name for name, is_same in same.items() if not is_same]
    if wrong:
        raise BadInput(
            f"The donor ({donor.notes.get('model')}) was read with another {' and '.join(wrong)} than "
            f"{about['model']}; take both readings with the same options on the same facts"
        )


@dataclass(frozen=True)
class Against:
    """A reading and the donor's."""

    donor: Trace
    """This reading of the model before."""
    features: tuple[int, ...]
    """Features of this reading, in order."""
    changes: FeatureChanges | None
    """Token by token; None where that cannot be."""
    why_not: str = ""
    """Why it cannot."""

    @classmethod
    def of(
        cls, donor: Trace, features: Sequence[int], after: Activations, read: tuple[str, Sequence[str]], seed: int
    ) -> "Against":
        """Pair two readings.

        Args:
            donor: the reading of the model before.
            features: their numbers.
            after: this model's activations on the facts to forget.
            read: digest of the token rows, and what each fact is drawn with.
            seed: of the test.
        """
        rows, clusters = read
        why = _why_not_paired(donor.notes, rows)
        before = None if why else Activations.unpack(donor.notes["activations"])
        changes = None if before is None else FeatureChanges.of(before, after, clusters, seed)
        return cls(donor, tuple(features), changes, why)

    def sides(self, after: Activations) -> dict[str, Activations]:
        """Activations before and after; after alone where they cannot be paired."""
        return {"after": after} if self.changes is None else {"before": self.changes.before, "after": after}

    def columns(self, values: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """This model's numbers less the donor's."""
        place = {feature: i for i, feature in enumerate(self.donor.labels["feature"])}
        rows, known = [place[str(feature)] for feature in self.features], self.donor.labels["measure"]
        return {
            f"{name}_change": values[name] - self.donor.values[rows, known.index(name)]
            for name in COMPARED
            if name in known
        }

    def most(self, change: np.ndarray, count: int) -> list[int]:
        """Numbers of the features that changed most."""
        return [self.features[i] for i in most_changed(change, count)]

    def notes(
        self, notes: Mapping[str, Any], forget: np.ndarray, chosen: Sequence[int], degrade: float, seed: int
    ) -> dict[str, Any]:
        """What became of the donor's found features, how many changed, and whether the SAE still describes this model.

        Args:
            notes: of this reading.
            forget: share of the forget tokens, a feature.
            chosen: features whose change gets an interval.
            degrade: by what share of the donor's variance the error may grow.
            seed: of the intervals.
        """
        donor, before = self.donor, self.donor.pick("measure", "forget")
        old = dict(zip(map(int, before.labels["feature"]), before.values.tolist(), strict=True))
        new = dict(zip(self.features, forget.tolist(), strict=True))
        found = list(map(int, donor.notes["found"]))
        fired = sum(old[feature] for feature in found)
        kept = ("model", "identity", "found", "explained_variance", "reconstruction_error", "variance", "l0")
        still = sum(new[feature] for feature in found) / fired if fired else None
        told = {
            "before": {**{name: donor.notes[name] for name in kept if name in donor.notes}, "still_firing": still},
            "warnings": _warnings(notes, donor.notes, degrade),
        }
        if self.changes is None:
            return told | {"why_not": {**notes["why_not"], "intervals": self.why_not}}
        return told | {"change": self.changes.notes(), "intervals": self.changes.intervals(chosen, seed)}


def _warnings(notes: Mapping[str, Any], before: Mapping[str, Any], degrade: float) -> list[str]:
    """A sentence a set of facts on which the SAE's error grew."""
    errors = before["reconstruction_error"]
    known = [variance for variance in before["variance"].values() if variance is not None]
    usual = sum(known) / len(known) if known else float("nan")
    return [
        f"on the {name} facts the SAE's error is {now:.3g} a token here and {then:.3g} on {before['model']} "
        f"(variance {usual:.3g}): it may not describe this model, and changes of firing may be its failure"
        for name, now in notes["reconstruction_error"].items()
        if now is not None and (then := errors.get(name)) is not None and now - then > degrade * usual
    ]


def _why_not_paired(donor: Mapping[str, Any], rows: str) -> str:
    """Why two readings cannot be compared token by token; empty when they can."""
    if donor.get("activations") is None:
        return str(
            donor.get("why_no_activations")
            or "the donor's reading does not hold what fires at every token; take it again, without a donor of its own"
        )
    if donor.get("rows_digest") != rows:
        return "the donor read other tokens (it could read other facts, or has another tokenizer)"
    return ""
