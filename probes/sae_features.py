"""SAE features: which features of a sparse autoencoder fire on what was to be forgotten and hardly anywhere else?

Source: Farrell, Lau and Conmy 2024, "Applying sparse autoencoders to unlearn knowledge in language models",
https://arxiv.org/abs/2410.19278, with the counting of SAEBench (https://arxiv.org/abs/2503.09532): features that fire
on a share of the retain tokens at or above a threshold are dropped, the rest are sorted by their share of the forget
tokens, the first `keep` are found. Retain is near and far facts together; special tokens do not count. Variant:
`rank="attribution"` sorts by the first-order effect on the answer's logit instead (their second route, without its
trial clamping), and drops the same features. Where no SAE is given, one is trained on the spot on these very tokens.
Read it as: `forget` and `retain` are shares of tokens, `attribution` is logits per fact (positive speaks for the
answer). With a donor (the model before), `forget_change` and `retain_change` are this model's share less the donor's,
through the same SAE. `notes["shuffled"]` says how much found features fire when facts are dealt at random to forget
and retain (`probes.feature_firing`): no more than there means nothing special. To confirm, clamp the found features
(`sae_clamp`, to a negative number: the paper finds that zero does nothing) and compare with as many random ones.
Does not show: knowledge that no feature stands for (`notes["explained_variance"]`), or anything about an edited model
whose values the SAE no longer describes (`notes["warnings"]`). An SAE trained on a few hundred tokens knows only those.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Float
from pydantic import Field
from torch import Tensor

from probes.feature_firing import Firing
from probes.vector_scan import top_ids, vocabulary
from workbench.concepts import Fact, FactSet
from workbench.errors import BadInput
from workbench.feature_choice import Limits
from workbench.fitted_sae import FittedSae, ThroughSae
from workbench.model import HookedModel
from workbench.sae_reading import Dictionary, FeatureReading, feature_effects, read_features
from workbench.tokens import Encoded
from workbench.trace import Trace

SETS = ("forget", "near", "far")


class SaeFeatures(ThroughSae):
    """Find the features of a sparse autoencoder that stand for the facts."""

    rank: Literal["firing", "attribution"] = "firing"
    """What features that pass are sorted by: share of the forget tokens, or effect on the answers' logit."""
    retain_below: float = Field(0.01, gt=0, le=1)
    """A found feature fires on less than this share of the retain tokens; the paper uses 0.01 and 0.001."""
    forget_above: float = Field(0.0, ge=0, lt=1)
    """A found feature fires on more than this share of the forget tokens; as published, on any at all."""
    keep: int = Field(20, ge=1)
    """How many features are found at most; the paper uses 10, 20 and 50."""
    shuffles: int = Field(200, ge=0)
    """How often facts are dealt at random to forget and retain, to see what chance finds."""
    degrade: float = Field(0.1, ge=0)
    """Warn when the SAE's squared error is larger than on the donor by this share of the variance there. The donor's
    variance, because an edit that empties a site leaves none to explain."""
    tokens: int = Field(10, ge=1)
    """How many tokens the list of each found feature has."""

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
            _require_same_reading(donor, used, about)
        readings = {
            name: read_features(model, used.site, used.dictionary, [e.ids for e in one.encoded])
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
            "features": _words(model, used.dictionary, found, self.tokens),
            "shuffled": firing.shuffled(limits, self.shuffles, self.seed),
            **_quality(readings),
            **_coverage(sets),
            "why_not": {name: reason for name, reason in (("attribution", why), ("retain", firing.why_not)) if reason},
        }
        return _trace(firing, effects, found, notes, donor, self.degrade)


@dataclass(frozen=True)
class _Set:
    """The facts of a set that can be read, and why the others cannot."""

    facts: tuple[Fact, ...]
    encoded: tuple[Encoded, ...]
    skipped: tuple[str, ...]


def _readable(model: HookedModel, given: FactSet | None) -> _Set:
    facts, encoded, skipped = [], [], []
    for fact in given.facts if given is not None else ():
        try:
            encoded += model.encode([fact])
            facts.append(fact)
        except BadInput as error:
            skipped.append(str(error))
    return _Set(tuple(facts), tuple(encoded), tuple(skipped))


def _require_same_reading(donor: Trace, used: FittedSae, about: Mapping[str, Any]) -> None:
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


@torch.no_grad()
def _words(
    model: HookedModel, dictionary: Dictionary, found: Sequence[int], tokens: int
) -> dict[str, dict[str, list[str]]] | None:
    """The tokens each found feature writes for and against; None where it does not write into the residual stream."""
    if dictionary.decoder.shape[1] != model.d_model or not found:
        return None if dictionary.decoder.shape[1] != model.d_model else {}
    rows = dictionary.decoder[list(found)].to(model.unembedding.device)
    logits, among = rows @ model.unembedding.float().T, vocabulary(model)
    up, down = (top_ids(sign * logits, tokens, among).tolist() for sign in (1, -1))
    words = model.tokenizer.convert_ids_to_tokens
    return {str(feature): {"promotes": words(up[i]), "suppresses": words(down[i])} for i, feature in enumerate(found)}


def _trace(
    firing: Firing,
    effects: Float[Tensor, " feature"],
    found: Sequence[int],
    notes: dict[str, Any],
    donor: Trace | None,
    degrade: float,
) -> Trace:
    """Found features first, then the rest by their share of the forget tokens."""
    forget, retain = firing.shares()
    chosen = set(found)
    rest = [i for i in forget.argsort(descending=True, stable=True).tolist() if i not in chosen]
    order = [*found, *rest]
    columns = {"forget": forget, "retain": retain, "attribution": effects}
    features = tuple(map(str, order))
    values = {name: column.double().numpy()[order] for name, column in columns.items()}
    if donor is not None:
        values |= _changes(values, donor, features)
        notes = notes | _against(notes, donor, values["forget"], features, degrade)
    return Trace(
        "sae_features",
        np.stack(list(values.values()), axis=1),
        ("feature", "measure"),
        "see measure",
        {"feature": features, "measure": tuple(values)},
        {"warnings": []}
        | notes
        | {
            "axes": {
                "feature": "features of the SAE: the found ones best first, then the rest by share of forget tokens",
                "measure": "forget, retain: share of tokens; attribution: logits per fact; _change: this model's share "
                "less the donor's",
            }
        },
    )


def _changes(values: Mapping[str, np.ndarray], donor: Trace, features: Sequence[str]) -> dict[str, np.ndarray]:
    """This model's shares less the donor's."""
    place = {feature: i for i, feature in enumerate(donor.labels["feature"])}
    rows = [place[feature] for feature in features]
    before = {name: donor.values[rows, donor.labels["measure"].index(name)] for name in ("forget", "retain")}
    return {f"{name}_change": values[name] - old for name, old in before.items()}


def _against(
    notes: Mapping[str, Any], donor: Trace, forget: np.ndarray, features: Sequence[str], degrade: float
) -> dict[str, Any]:
    """What became of the donor's found features, and whether the SAE still describes this model."""
    before = donor.pick("measure", "forget")
    old = dict(zip(before.labels["feature"], before.values.tolist(), strict=True))
    new = dict(zip(features, forget.tolist(), strict=True))
    found = list(map(str, donor.notes["found"]))
    fired = sum(old[feature] for feature in found)
    errors = donor.notes["reconstruction_error"]
    known = [variance for variance in donor.notes["variance"].values() if variance is not None]
    usual = sum(known) / len(known) if known else float("nan")
    warnings = [
        f"on the {name} facts the SAE's error is {now:.3g} a token here and {then:.3g} on {donor.notes['model']} "
        f"(variance {usual:.3g}): it may not describe this model, and changes of firing may be its failure"
        for name, now in notes["reconstruction_error"].items()
        if now is not None and (then := errors.get(name)) is not None and now - then > degrade * usual
    ]
    return {
        "before": {
            "model": donor.notes["model"],
            "identity": donor.notes["identity"],
            "found": donor.notes["found"],
            "explained_variance": donor.notes["explained_variance"],
            "reconstruction_error": errors,
            "still_firing": sum(new[feature] for feature in found) / fired if fired else None,
        },
        "warnings": warnings,
    }
