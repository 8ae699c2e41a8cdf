"""SAE features: which features of a sparse autoencoder fire on what was to be forgotten and hardly anywhere else?

Source: Farrell, Lau and Conmy 2024, "Applying sparse autoencoders to unlearn knowledge in language models",
https://arxiv.org/abs/2410.19278, with the counting of SAEBench (https://arxiv.org/abs/2503.09532): features that fire
on a share of the retain tokens at or above a threshold are dropped, the rest are sorted by their share of the forget
tokens, the first `keep` are found. Retain is near and far facts together; special tokens do not count. Variant:
`rank="attribution"` sorts by the first-order effect on the answer's logit instead (their second route, without its
trial clamping), and drops the same features. Where no SAE is given, one is trained on the spot on these very tokens.
Read it as: `forget` and `retain` are shares of tokens, `attribution` is logits per fact (positive speaks for the
answer), `forget_mean` is the mean activation over all forget tokens. With a donor (the model before), `_change` is this
model's number less the donor's; `notes["change"]` has p-values and false-discovery rates (`probes.feature_against`).
The features found and the `keep` that changed most have a card (`probes.feature_cards`). `notes["shuffled"]` says how
much found features fire when facts are dealt at random to forget and retain (`probes.feature_firing`): no more than
there means nothing special. To confirm, clamp the found features (`sae_clamp`, to a negative number: the paper finds
that zero does nothing) and compare with as many random ones.
Does not show: knowledge that no feature stands for (`notes["explained_variance"]`), or anything about an edited model
whose values the SAE no longer describes (`notes["warnings"]`). An SAE trained on a few hundred tokens knows only those.
"""

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Float
from pydantic import Field
from torch import Tensor

from probes.feature_against import Against, require_same_reading
from probes.feature_cards import cards, texts_of, written
from probes.feature_firing import Firing
from workbench.concepts import Fact, FactSet
from workbench.errors import BadInput
from workbench.feature_choice import Limits
from workbench.fitted_sae import FittedSae, ThroughSae
from workbench.model import HookedModel
from workbench.sae_activations import MOST, Activations
from workbench.sae_reading import FeatureReading, feature_effects, read_features
from workbench.tokens import Encoded
from workbench.trace import Trace

SETS = ("forget", "near", "far")

AXES = {
    "feature": "features of the SAE: the found ones best first, then the rest by share of forget tokens",
    "measure": "forget, retain: share of tokens; attribution: logits per fact; forget_mean: activation a forget token; "
    "_change: this model's number less the donor's",
}
"""What the axes are, for the notes."""


class SaeFeatures(ThroughSae):
    """Find the features of a sparse autoencoder that stand for the facts."""

    rank: Literal["firing", "attribution"] = "firing"
    """What features that pass are sorted by: share of the forget tokens, or effect on the answers' logit."""
    retain_below: float = Field(0.01, gt=0, le=1)
    """A found feature fires on less than this share of the retain tokens; the paper uses 0.01 and 0.001."""
    forget_above: float = Field(0.0, ge=0, lt=1)
    """A found feature fires on more than this share of the forget tokens; as published, on any at all."""
    keep: int = Field(20, ge=1)
    """How many features are found at most (the paper uses 10, 20 and 50), and how many changed ones have a card."""
    shuffles: int = Field(200, ge=0)
    """How often facts are dealt at random to forget and retain, to see what chance finds."""
    degrade: float = Field(0.1, ge=0)
    """Warn when the SAE's squared error is larger than on the donor by this share of the variance there. The donor's
    variance, because an edit that empties a site leaves none to explain."""
    tokens: int = Field(10, ge=1)
    """How many tokens the list of each found or changed feature has."""
    examples: int = Field(3, ge=0)
    """How many facts the card of a feature has: the facts to forget in which it fires most, in either model."""

    def donor_reading(self) -> "SaeFeatures":
        """The same reading of the model compared against, whose SAE is then used for both."""
        return self

    def look(
        self,
        model: HookedModel,
        facts: FactSet,
        near: FactSet | None = None,
        far: FactSet | None = None,
        texts: Sequence[str] = (),
        *,
        donor: Trace | None = None,
        progress: Callable[[int, int], None] | None = None,
    ) -> Trace:
        """Axes (feature, measure), found features first.

        Args:
            model: what to look into.
            facts: what was to be forgotten.
            near: neighbours; with `far`, where a found feature must not fire.
            far: unrelated facts.
            texts: more text to train an SAE on; not read otherwise.
            donor: this reading of the model before, on the same facts.
            progress: told how far the training of an SAE is.

        Raises:
            BadInput: for an SAE of another width, site or checkpoint, or a donor read through another SAE or facts.
        """
        about = model.about(facts)
        sets = {name: _readable(model, given) for name, given in zip(SETS, (facts, near, far), strict=True)}
        if not sets["forget"].encoded:
            raise BadInput(f"No fact of {facts.name!r} can be read: {sets['forget'].skipped[0]}")
        used = self.fitted(
            model,
            [fact for one in sets.values() for fact in one.facts],
            texts,
            other=None if donor is None else (donor.notes["sae"]["path"], donor.notes["sae"]["sae_id"]),
            before=None if donor is None else donor.notes["identity"],
            progress=progress,
        )
        if donor is not None:
            require_same_reading(donor, used, about)
        readings = {
            name: read_features(model, used.site, used.dictionary, [e.ids for e in one.encoded], name == "forget")
            for name, one in sets.items()
            if one.encoded
        }
        effects, why = _effects(model, used, sets["forget"].encoded)
        if why and self.rank == "attribution":
            raise BadInput(f"Features cannot be ranked by attribution here: {why}. Use rank=firing")
        firing, limits = Firing.of(readings), Limits(self.forget_above, self.retain_below, self.keep)
        found = limits.found(*firing.shares(), effects if self.rank == "attribution" else None)
        notes = {
            **about,
            "options": self.spec(),
            "site": str(used.site),
            "sae": used.notes(),
            "found": found,
            "shuffled": firing.shuffled(limits, self.shuffles, self.seed),
            **_quality(readings),
            **_coverage(sets),
            "rows_digest": _digest(sets["forget"].encoded),
            "warnings": [],
            "why_not": {name: reason for name, reason in (("attribution", why), ("retain", firing.why_not)) if reason},
        }
        values, order = _columns(firing, effects, readings["forget"].mean, found)
        return self._trace(_Read(model, used, sets["forget"], readings["forget"], order), values, notes, donor)

    def _trace(self, read: "_Read", values: dict[str, np.ndarray], notes: dict[str, Any], donor: Trace | None) -> Trace:
        """The columns, with the donor's beside them, and the cards of the features that are kept."""
        chosen, sides = notes["found"], {"after": read.acts}
        if donor is None:
            notes |= _packed(read.acts)
        else:
            clusters = [fact.cluster for fact in read.facts.facts]
            against = Against.of(donor, read.order, read.acts, (notes["rows_digest"], clusters), self.seed)
            values |= against.columns(values)
            chosen = list(dict.fromkeys([*chosen, *against.most(values["forget_change"], self.keep)]))
            notes |= against.notes(notes, values["forget"], chosen, self.degrade, self.seed)
            sides = against.sides(read.acts)
        made = cards(chosen, sides, self.examples)
        notes |= {
            "features": written(read.model, read.used.dictionary, chosen, self.tokens),
            "cards": made,
            "texts": texts_of(read.model, read.facts.encoded, made),
            "axes": AXES,
        }
        labels = {"feature": tuple(map(str, read.order)), "measure": tuple(values)}
        numbers = np.stack(list(values.values()), axis=1)
        return Trace("sae_features", numbers, ("feature", "measure"), "see measure", labels, notes)


@dataclass(frozen=True)
class _Set:
    """The facts of a set that can be read, and why the others cannot."""

    facts: tuple[Fact, ...]
    encoded: tuple[Encoded, ...]
    skipped: tuple[str, ...]


@dataclass(frozen=True)
class _Read:
    """What was read of the facts to forget, and through what."""

    model: HookedModel
    used: FittedSae
    facts: _Set
    reading: FeatureReading
    order: list[int]

    @property
    def acts(self) -> Activations:
        """Every activation; they were asked for."""
        assert self.reading.kept is not None
        return self.reading.kept


def _readable(model: HookedModel, given: FactSet | None) -> _Set:
    facts, encoded, skipped = [], [], []
    for fact in given.facts if given is not None else ():
        try:
            encoded += model.encode([fact])
            facts.append(fact)
        except BadInput as error:
            skipped.append(str(error))
    return _Set(tuple(facts), tuple(encoded), tuple(skipped))


# ---- what is said of them


def _effects(model: HookedModel, used: FittedSae, encoded: Sequence[Encoded]) -> tuple[Float[Tensor, " feature"], str]:
    """Attribution of every feature; NaN with the reason where the site can only be read."""
    try:
        return feature_effects(model, used.site, used.dictionary, encoded), ""
    except BadInput as error:
        return torch.full((len(used.dictionary.decoder),), float("nan"), dtype=torch.float64), str(error)


def _quality(readings: Mapping[str, FeatureReading]) -> dict[str, Any]:
    """How well the SAE describes these tokens."""
    fired = torch.stack([reading.fired.sum(dim=0) for reading in readings.values()]).sum(dim=0)
    return {
        "explained_variance": {name: _known(reading.explained) for name, reading in readings.items()},
        "reconstruction_error": {name: _known(reading.error) for name, reading in readings.items()},
        "variance": {name: _known(reading.variance) for name, reading in readings.items()},
        "l0": {name: _known(reading.active) for name, reading in readings.items()},
        "dead_share": float((fired == 0).double().mean()),
    }


def _coverage(sets: Mapping[str, _Set]) -> dict[str, Any]:
    """How many facts were read, how many were not, and why not (the first of each set)."""
    return {
        "facts_read": {name: len(one.facts) for name, one in sets.items()},
        "skipped": {name: len(one.skipped) for name, one in sets.items()},
        "why_skipped": {name: one.skipped[0] for name, one in sets.items() if one.skipped},
    }


def _known(number: float) -> float | None:
    return number if np.isfinite(number) else None


def _digest(encoded: Sequence[Encoded]) -> str:
    """sha256 of the token rows: two readings of the same rows can be compared token by token."""
    return hashlib.sha256(json.dumps([list(one.ids) for one in encoded]).encode()).hexdigest()


def _packed(acts: Activations) -> dict[str, Any]:
    """The activations for the notes; None with the reason where they are too many."""
    if len(acts.value) <= MOST:
        return {"activations": acts.packed()}
    why = f"the donor's features are active {len(acts.value)} times on the facts to forget; up to {MOST} are kept"
    return {"activations": None, "why_no_activations": f"{why}. Read fewer facts"}


def _columns(
    firing: Firing, effects: Float[Tensor, " feature"], mean: Float[Tensor, " feature"], found: Sequence[int]
) -> tuple[dict[str, np.ndarray], list[int]]:
    """Measures by feature, and the features: found ones first, then the rest by their share of the forget tokens."""
    forget, retain = firing.shares()
    chosen = set(found)
    order = [*found, *(i for i in forget.argsort(descending=True, stable=True).tolist() if i not in chosen)]
    columns = {"forget": forget, "retain": retain, "attribution": effects, "forget_mean": mean}
    return {name: column.double().numpy()[order] for name, column in columns.items()}, order
