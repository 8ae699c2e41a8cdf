"""Concept vectors: which MLP value vectors, projected onto the vocabulary, spell the answers?

Source: Hong et al. 2024, https://arxiv.org/abs/2406.11614 (parametric knowledge traces), after Geva et al. 2021,
https://arxiv.org/abs/2012.14913. Projection E v with the raw unembedding E and no final norm, as published. Variant:
the authors rank by the average logit and let a language model read the top tokens; here the concept's own terms (the
first tokens of its answers) are known, so a vector scores their mean logit, in standard deviations of all its logits.
Read it as: standard deviations by which the vector pushes the terms (either way: a neuron's coefficient may be
negative); `effect` is causal instead, to first order: how much of the answer's logit comes from the neuron.
Does not show: when a neuron fires, or for whom: two people with the same answer look alike in its projection. Confirm
by ablating. `compare_snapshots` says how far an unlearning method moved the vectors.
"""

import hashlib
from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from workbench.attribution import neuron_effects
from workbench.concepts import FactSet
from workbench.errors import BadInput
from workbench.model import HookedModel
from workbench.registry import Method
from workbench.sites import Site
from workbench.trace import Trace

CHUNK = 4096
"""Value vectors, or vocabulary rows, worked on at once."""

MEASURES = ("jaccard", "cosine", "l2", "norm_ratio")
"""What `compare_snapshots` reads for every vector."""


class ConceptVectors(Method):
    """Rank the value vectors of every layer, and of every expert, by what they write."""

    score: Literal["standardised", "average", "published", "effect"] = "standardised"
    """Mean logit of the terms in standard deviations of the vector's logits; the same mean in plain logits; the
    paper's first filter (mean logit over the whole vocabulary, blind to the concept); or the causal first-order effect
    on the answers (gradient x weight, see `workbench.attribution`)."""
    pool: Literal["mean", "max"] = "mean"
    """Over the terms: their mean finds vectors about the whole concept; the largest, vectors about a single answer."""
    gain: bool = False
    """Multiply the vector by the final norm's gain before projecting; the publication does not."""
    keep: int = 2000
    """How many of the best vectors the trace holds."""
    describe: int = 20
    """For how many of the best the notes list their tokens."""
    tokens: int = 20
    """How many tokens each list has."""

    @torch.no_grad()
    def look(self, model: HookedModel, facts: FactSet) -> Trace:
        """Scan all value vectors and keep the best."""
        about = model.about(facts)
        terms = torch.tensor(sorted({encoded.answer[0] for encoded in model.encode(facts.facts)}))
        unembedding = model.unembedding * model.final_gain if self.gain else model.unembedding
        if self.score == "effect":
            with torch.enable_grad():
                scores = torch.cat([effect.cpu() for effect in neuron_effects(model, facts.facts).values()])
        else:
            mlps = [rows for _, rows in model.mlps()]
            scores = projection_scores(mlps, unembedding, terms, vocabulary(model), self.score, self.pool)
        every = [Site(mlp.layer, "mlp_act", i, mlp.expert) for mlp, rows in model.mlps() for i in range(len(rows))]
        values, order = scores.sort(descending=True, stable=True)
        sites = [every[i] for i in order[: self.keep].tolist()]
        units = "standard deviations" if self.score == "standardised" else "logits"
        labels = {"site": tuple(map(str, sites))}
        return Trace(
            "concept_vectors",
            values[: self.keep].numpy(),
            ("site",),
            units,
            labels,
            about
            | {
                "options": self.spec(),
                "scanned": len(every),
                "kept": len(sites),
                "terms": model.tokenizer.convert_ids_to_tokens(terms.tolist()),
                "vectors": self._describe(model, sites[: self.describe], unembedding, terms),
                "axes": {"site": "MLP neurons, best first; those that were not kept scored lower"},
            },
        )

    def _describe(
        self,
        model: HookedModel,
        sites: Sequence[Site],
        unembedding: Float[Tensor, "vocab d_model"],
        terms: Int[Tensor, " term"],
    ) -> dict[str, Any]:
        """Norm, sign towards the terms, and the most and least promoted tokens of some vectors."""
        vectors, among = model.vectors_at(sites).float(), vocabulary(model)
        logits = vectors @ unembedding.float().T
        towards = (logits[:, terms] - logits[:, among].mean(dim=1, keepdim=True)).mean(dim=1)
        up, down = (top_ids(sign * logits, self.tokens, among).tolist() for sign in (1, -1))
        words = model.tokenizer.convert_ids_to_tokens
        return {
            str(site): {
                "norm": float(vectors[i].norm()),
                "sign": 1 if towards[i] >= 0 else -1,
                "promotes": words(up[i]),
                "suppresses": words(down[i]),
            }
            for i, site in enumerate(sites)
        }


def projection_scores(
    mlps: Sequence[Float[Tensor, "_ d_model"]],
    unembedding: Float[Tensor, "vocab d_model"],
    terms: Int[Tensor, " term"],
    among: Int[Tensor, " real"],
    how: str,
    pool: str = "mean",
) -> Float[Tensor, " n"]:
    """Score value vectors by their logits, a chunk at a time; `how` and `pool` as in `ConceptVectors`.

    The mean of E v over the vocabulary is mean(E) . v and its variance v' Cov(E) v, so no vector is projected onto
    the whole vocabulary and the result is the same.
    """
    mean = sum(unembedding[ids].float().sum(dim=0) for ids in among.split(CHUNK)) / len(among)
    covariance = sum(rows.T @ rows for ids in among.split(CHUNK) for rows in [unembedding[ids].float() - mean])
    towards = unembedding[terms].float()
    towards = towards.mean(dim=0, keepdim=True) if pool == "mean" else towards
    found = []
    for chunk in (chunk.float() for rows in mlps for chunk in rows.split(CHUNK)):
        if how == "published":
            found.append(chunk @ mean)
        elif how == "average":
            found.append((chunk @ towards.T).abs().amax(dim=1))
        else:
            variance = ((chunk @ covariance) * chunk).sum(dim=1) / len(among)
            found.append((chunk @ (towards - mean).T).abs().amax(dim=1) / variance.clamp(min=1e-24).sqrt())
    return torch.cat(found).cpu()


def vocabulary(model: HookedModel) -> Int[Tensor, " real"]:
    """Ids of real tokens: padding rows of the unembedding and special tokens would pollute every list."""
    special = set(model.tokenizer.all_special_ids)
    size = min(len(model.tokenizer), len(model.unembedding))
    return torch.tensor([i for i in range(size) if i not in special], device=model.unembedding.device)


def top_ids(logits: Float[Tensor, "n vocab"], k: int, among: Int[Tensor, " real"]) -> Int[Tensor, "n k"]:
    """Ids of the k largest logits, among the tokens that count."""
    return among[logits[:, among].topk(min(k, len(among)), dim=1).indices]


# ---- how far an edit moved them; one model in memory at a time


@torch.no_grad()
def snapshot(model: HookedModel, sites: Sequence[Site], k: int = 200) -> Trace:
    """The value vectors at some sites and, in the notes, the k tokens each promotes most: enough to compare later.

    Raises:
        BadInput: when a site is not a single MLP neuron of this model.
    """
    vectors = model.vectors_at(sites).float()
    ids = top_ids(vectors @ model.unembedding.float().T, k, vocabulary(model))
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
            "unembedding_digest": digest,
            "top_ids": dict(zip(map(str, sites), ids.tolist(), strict=True)),
        },
    )


def compare_snapshots(before: Trace, after: Trace) -> Trace:
    """How far the vectors moved: Jaccard index of the top tokens' ids, cosine, L2 distance, norm after / before.

    Every vector is read through its own model's unembedding, as published, so a changed unembedding lowers the
    Jaccard index too; the notes say whether it changed.

    Raises:
        BadInput: when the two were not taken at the same sites with the same k.
    """
    same = [before.labels["site"] == after.labels["site"], before.notes["k"] == after.notes["k"]]
    if not all(same):
        raise BadInput(
            f"Two snapshots with different {'k' if same[0] else 'sites'} cannot be compared "
            f"({before.notes['model']} and {after.notes['model']}); take both with the same sites and k"
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
    before, after = float(np.linalg.norm(old)), float(np.linalg.norm(new))
    cosine = min(1.0, float(old @ new) / (before * after)) if before and after else float("nan")
    return cosine, float(np.linalg.norm(new - old)), after / before if before else float("nan")
