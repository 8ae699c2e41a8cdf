"""Concept vectors: which MLP value vectors, projected onto the vocabulary, spell the answers?

Source: Hong et al. 2024, https://arxiv.org/abs/2406.11614 (parametric knowledge traces), after Geva et al. 2021,
https://arxiv.org/abs/2012.14913. Projection E v with the raw unembedding E and no final norm, as published. Variant:
the authors rank by the average logit and let a language model read the top tokens; here the concept's own terms (the
tokens of its answers) are known, so a vector scores their mean logit, in standard deviations of all its logits, or how
many of them are among its top tokens. Both ends count: a vector whose negative spells the concept is found too.
Read it as: standard deviations by which the vector pushes the terms; the notes' `signs` say which way (a neuron's
coefficient may be negative); `effect` is causal instead, to first order: how much of the answer's logit comes from it.
Does not show: when a neuron fires, or for whom: two people with the same answer look alike in its projection. Confirm
by damaging them (`probes.vector_validation`). `compare_snapshots` says how far an unlearning method moved the vectors.
"""

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Float, Int
from pydantic import Field
from torch import Tensor

from probes.vector_scan import Against, Pool, Scanned, scan, signs_of, top_ids, vocabulary, within_reach
from workbench.attribution import neuron_effects
from workbench.concepts import FactSet
from workbench.errors import BadInput
from workbench.model import HookedModel
from workbench.patching import Progress
from workbench.registry import Method
from workbench.sites import Site
from workbench.token_strings import vocabulary_of
from workbench.trace import Trace

MEASURES = ("jaccard", "cosine", "l2", "norm_ratio")
"""What `compare_snapshots` reads for every vector."""

UNITS = {"standardised": "standard deviations", "overlap": "Jaccard index with the terms"}
"""Of a score; every other is in logits."""

Score = Literal["standardised", "average", "published", "overlap", "effect"]
"""See `ConceptVectors.score`."""


class ConceptVectors(Method):
    """Rank the value vectors of every layer, and of every expert, by what they write."""

    score: Score = "standardised"
    """Mean logit of the terms in standard deviations of the vector's logits; the same mean in plain logits; the
    paper's first filter (mean logit over the whole vocabulary, blind to the concept); the Jaccard index of the
    vector's `k` top tokens and the terms; or the causal first-order effect on the answers (gradient x weight, see
    `workbench.attribution`)."""
    pool: Pool = "mean"
    """Over the terms: their mean finds vectors about the whole concept; the largest, vectors about a single answer."""
    terms: Literal["first", "all"] = "first"
    """The first token of every answer, which the model must say to begin it; or all tokens of every answer."""
    k: int = Field(default=200, ge=1)
    """Length of the lists that `overlap` compares, as published; at most a twentieth of the vocabulary."""
    gain: bool = False
    """Multiply the vector by the final norm's gain before projecting; the publication does not."""
    keep: int = 2000
    """How many of the best vectors the trace holds."""
    describe: int = 20
    """For how many of the best the notes list their tokens."""
    tokens: int = 20
    """How many tokens each list has."""

    @torch.no_grad()
    def look(self, model: HookedModel, facts: FactSet, progress: Progress | None = None) -> Trace:
        """Scan all value vectors and keep the best; `progress` is told how many are done, and of how many."""
        about = model.about(facts)
        terms = terms_of(model, facts, self.terms)
        unembedding = model.unembedding * model.final_gain if self.gain else model.unembedding
        against = Against(unembedding, terms, vocabulary(model), self.pool)
        k = within_reach(self.k, against.among)
        every = [Site(mlp.layer, "mlp_act", i, mlp.expert) for mlp, rows in model.mlps() for i in range(len(rows))]
        scores, signs, order = self._scan(model, facts, against, k, progress)
        order = order[: self.keep]
        sites = [every[i] for i in order.tolist()]
        chosen = signs_of(against.pull(model.vectors_at(sites).float())) if signs is None else signs[order]
        return Trace(
            "concept_vectors",
            scores[order].numpy(),
            ("site",),
            UNITS.get(self.score, "logits"),
            {"site": tuple(map(str, sites))},
            about
            | {
                "options": self.spec(),
                "scanned": len(every),
                "kept": len(sites),
                "k": k,
                "terms": model.tokenizer.convert_ids_to_tokens(terms.tolist()),
                "signs": chosen.tolist(),
                "norm_behind_mlp": norms_behind(model),
                "vectors": self._describe(model, sites[: self.describe], chosen.tolist(), against),
                "axes": {"site": "MLP neurons, best first; those that were not kept scored lower"},
            },
        )

    def _scan(
        self, model: HookedModel, facts: FactSet, against: Against, k: int, progress: Progress | None
    ) -> tuple[Float[Tensor, " n"], Int[Tensor, " n"] | None, Int[Tensor, " n"]]:
        """Score of every vector, its sign (None where the score does not say), and the order, best first."""
        if self.score != "effect":
            found: Scanned = scan([rows for _, rows in model.mlps()], against, self.score, k, progress)
            return found.scores, found.signs, found.order()
        with torch.enable_grad():
            scores = torch.cat([effect.cpu() for effect in neuron_effects(model, facts.facts).values()])
        return scores, None, scores.sort(descending=True, stable=True).indices

    def _describe(
        self, model: HookedModel, sites: Sequence[Site], signs: Sequence[int], against: Against
    ) -> dict[str, Any]:
        """Norm, sign, most and least promoted tokens of some vectors, and the terms among those on the sign's side."""
        vectors = model.vectors_at(sites).float()
        logits = vectors @ against.unembedding.float().T
        up, down = (top_ids(sign * logits, self.tokens, against.among).tolist() for sign in (1, -1))
        words, terms = model.tokenizer.convert_ids_to_tokens, set(against.terms.tolist())
        return {
            str(site): {
                "norm": float(vectors[i].norm()),
                "sign": signs[i],
                "promotes": words(up[i]),
                "suppresses": words(down[i]),
                "spells": words([token for token in (up[i] if signs[i] > 0 else down[i]) if token in terms]),
            }
            for i, site in enumerate(sites)
        }


def terms_of(model: HookedModel, facts: FactSet, which: str = "first") -> Int[Tensor, " term"]:
    """Ids of the concept's terms: the tokens its answers begin with, or (`all`) consist of."""
    answers = [encoded.answer for encoded in model.encode(facts.facts)]
    return torch.tensor(sorted({token for answer in answers for token in answer[: 1 if which == "first" else None]}))


def norms_behind(model: HookedModel) -> dict[str, str]:
    """Layers in which a norm stands between the value vectors and the residual stream, and what that means."""
    return {
        str(mlp): f"{store.through} rescales the sum of the value vectors before it joins the residual stream; "
        "its gain is not in the projection"
        for mlp, store in model.down_projections()
        if store.through and mlp.expert in (None, 0)
    }


class VectorFinder(Method):
    """What methods that work on a few found vectors have in common: how those are found, and their control."""

    score: Score = "standardised"
    """How the vectors are found: see `ConceptVectors.score`."""
    pool: Pool = "mean"
    """How the terms enter: see `ConceptVectors.pool`."""
    vectors: int = Field(default=10, ge=1)
    """How many of the best are taken."""

    def find(self, model: HookedModel, facts: FactSet, progress: Progress | None = None) -> Trace:
        """The best vectors for these facts, as `ConceptVectors` ranks them."""
        options: Mapping[str, Any] = {"score": self.score, "pool": self.pool, "keep": self.vectors}
        return ConceptVectors(**options, describe=0).look(model, facts, progress)


def controls_of(model: HookedModel, sites: Sequence[Site], seed: int, each: int = 1) -> list[Site]:
    """As many random neurons of the same layers (in a mixture: of the same experts), none of them one of `sites`.

    Args:
        model: the model.
        sites: single MLP neurons.
        seed: of the draw.
        each: random ones for each of `sites`; at most all others of its MLP.

    Raises:
        BadInput: when an MLP has fewer others than `sites` in it.
    """
    widths = {mlp: len(rows) for mlp, rows in model.mlps()}
    taken = {mlp: {site.index for site in sites if site.whole == mlp} for mlp in dict.fromkeys(s.whole for s in sites)}
    generator = torch.Generator().manual_seed(seed)
    return [site for mlp, there in taken.items() for site in _drawn(mlp, widths[mlp], there, each, generator)]


def _drawn(mlp: Site, width: int, taken: set[int | None], each: int, generator: torch.Generator) -> Iterator[Site]:
    """Random neurons of one MLP, `each` for every one that is taken there, if there are so many."""
    free = [i for i in range(width) if i not in taken]
    if len(free) < len(taken):
        raise BadInput(
            f"{mlp} has {width} neurons, of which {len(taken)} were chosen: too few are left to draw as many "
            "others for comparison. Choose fewer vectors"
        )
    for i in torch.randperm(len(free), generator=generator)[: each * len(taken)].tolist():
        yield Site(mlp.layer, mlp.part, free[i], mlp.expert)


# ---- how far an edit moved them; one model in memory at a time


@torch.no_grad()
def snapshot(model: HookedModel, sites: Sequence[Site], k: int = 200, signs: Sequence[int] | None = None) -> Trace:
    """The value vectors at some sites and, in the notes, the k tokens each promotes most: enough to compare later.

    Args:
        model: the model.
        sites: single MLP neurons.
        k: length of the lists.
        signs: -1 for a vector whose negative speaks for the concept: then the k tokens are those it suppresses.

    Raises:
        BadInput: when a site is not a single MLP neuron of this model.
    """
    vectors = model.vectors_at(sites).float()
    ends = vectors if signs is None else vectors * torch.tensor(signs, device=vectors.device)[:, None]
    ids = top_ids(ends @ model.unembedding.float().T, k, vocabulary(model))
    digest = hashlib.sha256(model.unembedding.float().cpu().contiguous().numpy().tobytes()).hexdigest()
    labels = {"site": tuple(map(str, sites)), "d_model": tuple(map(str, range(model.d_model)))}
    return Trace(
        "concept_vectors.snapshot",
        vectors.cpu().numpy(),
        ("site", "d_model"),
        "weight",
        labels,
        {
            "model": model.name,
            "identity": model.identity,
            "k": k,
            "signs": None if signs is None else list(signs),
            "unembedding_digest": digest,
            "top_ids": dict(zip(map(str, sites), ids.tolist(), strict=True)),
            "vocabulary": vocabulary_of(model.tokenizer, ids.flatten().tolist()),
        },
    )


def compare_snapshots(before: Trace, after: Trace) -> Trace:
    """How far the vectors moved: Jaccard index of the top tokens' ids, cosine, L2 distance, norm after / before.

    Every vector is read through its own model's unembedding, as published, so a changed unembedding lowers the
    Jaccard index too; the notes say whether it changed.

    Raises:
        BadInput: when the two were not taken at the same sites with the same k.
    """
    same = {
        "sites": before.labels["site"] == after.labels["site"],
        "k": before.notes["k"] == after.notes["k"],
        "signs": before.notes.get("signs") == after.notes.get("signs"),
    }
    if not all(same.values()):
        raise BadInput(
            f"Two snapshots with different {', '.join(name for name, is_same in same.items() if not is_same)} cannot "
            f"be compared ({before.notes['model']} and {after.notes['model']}); take both with the same sites and k"
        )
    rows = [
        (jaccard(before.notes["top_ids"][site], after.notes["top_ids"][site]), *moved(old, new))
        for site, old, new in zip(before.labels["site"], before.values, after.values, strict=True)
    ]
    return Trace(
        "concept_vectors.change",
        np.array(rows),
        ("site", "measure"),
        "see measure",
        {"site": before.labels["site"], "measure": MEASURES},
        {
            "before": before.notes["model"],
            "after": after.notes["model"],
            "k": before.notes["k"],
            "unembedding_changed": before.notes["unembedding_digest"] != after.notes["unembedding_digest"],
            "axes": {"measure": "where nothing changed, jaccard, cosine and norm_ratio are 1 and l2 is 0"},
        },
    )


def jaccard(one: Sequence[int], other: Sequence[int]) -> float:
    """Shared ids over all ids."""
    return len(set(one) & set(other)) / len(set(one) | set(other))


def moved(old: Float[np.ndarray, " d_model"], new: Float[np.ndarray, " d_model"]) -> tuple[float, float, float]:
    """Cosine, L2 distance, and norm after / before; NaN where a zero vector leaves one undefined."""
    old, new = old.astype(np.float64), new.astype(np.float64)
    before, after = float(np.linalg.norm(old)), float(np.linalg.norm(new))
    cosine = min(1.0, float(old @ new) / (before * after)) if before and after else float("nan")
    return cosine, float(np.linalg.norm(new - old)), after / before if before else float("nan")
