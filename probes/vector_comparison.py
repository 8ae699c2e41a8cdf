"""How far did the concept vectors move between two checkpoints?

Source: Hong et al. 2024, https://arxiv.org/abs/2406.11614 (ConceptVectors), its intrinsic measures: Jaccard index of
the 200 tokens a vector promotes most, cosine and L2 distance; here also the norm ratio. Of the concept's terms (the
tokens of the answers, in the place of a Wikipedia article's words): `terms_kept`, the share of those among the old top
tokens that are still among the new ones (theirs: related tokens rate), and `terms_ratio`, how many are among the new
per one among the old (theirs: preciser jaccard, which can exceed 1). Variant: the vectors are found on the model
compared against (before unlearning), each model is read through its own unembedding, as many random vectors of the same
MLPs say what happened to vectors that were not about the concept, and a vector whose negative speaks for the concept is
read from that end.
Read it as: where nothing changed, all are 1 but l2, which is 0. The publication's finding is that fine-tuning methods
barely move concept vectors though the answers are gone. The measures of terms are NaN for a vector that had none among
its top tokens; cosine and norm_ratio are NaN where a vector is zero.
Does not show: whether the vectors still fire, or what else took their place; see `probes.vector_validation`.
"""

from typing import Any, ClassVar, Literal

import numpy as np
from jaxtyping import Float
from pydantic import Field

from probes.concept_vectors import MEASURES, VectorFinder, compare_snapshots, controls_of, snapshot, terms_of
from probes.vector_scan import vocabulary, within_reach
from workbench.concepts import FactSet
from workbench.errors import BadInput
from workbench.model import HookedModel
from workbench.patching import Progress
from workbench.sites import parse_sites
from workbench.trace import Trace

OF_TERMS = ("terms_kept", "terms_ratio")
"""The measures that know the concept."""


class VectorOptions(VectorFinder):
    """What the two halves of a comparison agree on."""

    k: int = Field(default=200, ge=1)
    """Length of the lists of top tokens, as published; at most a twentieth of the vocabulary."""
    seed: int = 0
    """Of the draw of the random vectors."""


class VectorSnapshot(VectorOptions):
    """The found vectors of one model, as many random ones of the same MLPs, and the tokens each promotes most."""

    def look(self, model: HookedModel, facts: FactSet, progress: Progress | None = None) -> Trace:
        """Axes (site, d_model): first the found ones, then the random ones; the notes say how many were found."""
        found = self.find(model, facts, progress)
        sites = found.top("site", self.vectors)
        others, signs = controls_of(model, sites, self.seed), found.notes["signs"]
        k = within_reach(self.k, vocabulary(model))
        taken = snapshot(model, [*sites, *others], k, [*signs, *[1] * len(others)])
        more = {**model.about(facts), "options": self.spec(), "found": len(sites)}
        return Trace(taken.name, taken.values, taken.axes, taken.units, taken.labels, {**more, **taken.notes})


class VectorChange(VectorOptions):
    """How far the vectors found on the model compared against have moved in this one."""

    donor_from: ClassVar[Literal["against", "checkpoint"]] = "against"

    def donor_reading(self) -> VectorSnapshot:
        """What is read of the model compared against."""
        return VectorSnapshot(**self.model_dump())

    def look(self, model: HookedModel, facts: FactSet, donor: Trace) -> Trace:
        """Axes (site, measure) over the found vectors; the notes sum them up, and the random ones beside them.

        Raises:
            BadInput: when `donor` is no reading of `VectorSnapshot` on these facts, or of another shape of model.
        """
        self._require_fit(model, facts, donor)
        sites, found = parse_sites(donor.labels["site"]), int(donor.notes["found"])
        own = snapshot(model, sites, int(donor.notes["k"]), donor.notes["signs"])
        change = compare_snapshots(donor, own)
        values = np.column_stack([change.values, _of_terms(model, facts, donor, own)])
        measures = (*MEASURES, *OF_TERMS)
        return Trace(
            "vector_change",
            values[:found],
            ("site", "measure"),
            "see measure",
            {"site": change.labels["site"][:found], "measure": measures},
            {
                **model.about(facts),
                **change.notes,
                "options": self.spec(),
                "summary": _summary(values[:found], measures),
                "random": _summary(values[found:], measures),
                "random_vectors": list(change.labels["site"][found:]),
                "axes": {
                    "site": "found on the model compared against, best first",
                    "measure": "where nothing changed, all are 1 but l2, which is 0; NaN: a zero vector, or no term "
                    "among the old top tokens",
                },
            },
        )

    def _require_fit(self, model: HookedModel, facts: FactSet, donor: Trace) -> None:
        if "found" not in donor.notes or "top_ids" not in donor.notes:
            raise BadInput(
                f"The donor {donor.name!r} is no reading of VectorSnapshot, which VectorChange compares with"
            )
        if donor.notes["facts_digest"] != facts.digest:
            raise BadInput(
                f"The donor was read on {donor.notes['facts']!r}, which are not these facts of {facts.name!r}: "
                "take both readings on the same facts"
            )
        if donor.values.shape[1] != model.d_model:
            raise BadInput(
                f"Vectors of {donor.notes['model']} have width {donor.values.shape[1]}, those of {model.name} "
                f"{model.d_model}: only models of one architecture and size can be compared"
            )


def _of_terms(model: HookedModel, facts: FactSet, before: Trace, after: Trace) -> Float[np.ndarray, "site 2"]:
    """`terms_kept` and `terms_ratio` of every vector."""
    terms, old, new = set(terms_of(model, facts, "all").tolist()), before.notes["top_ids"], after.notes["top_ids"]
    return np.array([kept_terms(terms, old[site], new[site]) for site in before.labels["site"]])


def kept_terms(terms: set[int], old: list[int], new: list[int]) -> tuple[float, float]:
    """Share of the terms in the old list that are in the new; terms in the new list per one in the old; NaN if none."""
    had, has = terms & set(old), terms & set(new)
    return (len(had & has) / len(had), len(has) / len(had)) if had else (float("nan"), float("nan"))


def _summary(values: Float[np.ndarray, "site measure"], measures: tuple[str, ...]) -> dict[str, Any]:
    """Mean, median and extremes over vectors of every measure, over those that have it."""
    return {measure: _spread(values[:, i]) for i, measure in enumerate(measures)}


def _spread(values: Float[np.ndarray, " site"]) -> dict[str, float | int | None]:
    known = values[np.isfinite(values)]
    if not len(known):
        return {"n": 0, "mean": None, "median": None, "lowest": None, "highest": None}
    return {
        "n": len(known),
        "mean": float(known.mean()),
        "median": float(np.median(known)),
        "lowest": float(known.min()),
        "highest": float(known.max()),
    }
