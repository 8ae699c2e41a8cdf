"""Value vectors held against a concept's terms, chunk by chunk: the scan under `probes.concept_vectors`.

What is held at once is one chunk of vectors, and for `overlap` its logits (`ENTRIES`), never layers x neurons x
vocabulary. Everything but `overlap` needs no projection at all: the mean of E v over the vocabulary is mean(E) . v and
its variance v' Cov(E) v. `overlap` projects, and looks for the k-th largest logit only in rows where a term may be
above it: the k-th largest of the maxima of disjoint blocks is a lower bound of it, and costs a tenth of a top-k.
Read it as: `Scanned.signs` says which end of a vector the terms are at; a neuron's coefficient may be negative.
Does not show: when a neuron fires; see `probes.concept_vectors`.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor

from workbench.errors import BadInput
from workbench.model import HookedModel
from workbench.patching import Progress

CHUNK = 4096
"""Value vectors, or vocabulary rows, worked on at once."""

ENTRIES = 1 << 24
"""Logits held at once: 64 MiB in float32."""

BLOCK = 16
"""Tokens of which the scan for the k-th largest logit first takes the largest."""

How = Literal["standardised", "average", "published", "overlap"]
"""How a vector is scored by its logits; see `ConceptVectors.score`."""

Pool = Literal["mean", "max"]
"""What stands for several terms."""


@dataclass(frozen=True)
class Scanned:
    """One entry a value vector."""

    scores: Float[Tensor, " n"]
    """The larger, the more the vector is about the terms."""
    signs: Int[Tensor, " n"]
    """1 where the vector itself promotes the terms, -1 where its negative does."""
    ties: Float[Tensor, " n"]
    """What decides between equal scores: the standardised score."""

    def order(self) -> Int[Tensor, " n"]:
        """Best first; what is still equal stays in order."""
        first = self.ties.sort(descending=True, stable=True).indices
        return first[self.scores[first].sort(descending=True, stable=True).indices]


@dataclass(frozen=True)
class Against:
    """What value vectors are held against."""

    unembedding: Float[Tensor, "vocab d_model"]
    """One row a token, padding and special tokens too."""
    terms: Int[Tensor, " term"]
    """Ids of the concept's terms."""
    among: Int[Tensor, " real"]
    """Ids of the tokens that count."""
    pool: Pool = "mean"
    """Their mean finds vectors about the whole concept; the largest, vectors about a single term."""

    @cached_property
    def mean(self) -> Float[Tensor, " d_model"]:
        """Mean unembedding: its product with a vector is the vector's mean logit."""
        return torch.stack([self.unembedding[ids].float().sum(dim=0) for ids in self.among.split(CHUNK)]).sum(
            dim=0
        ) / len(self.among)

    @cached_property
    def covariance(self) -> Float[Tensor, "d_model d_model"]:
        """Covariance of the unembedding over tokens."""
        total = torch.zeros(len(self.mean), len(self.mean), device=self.mean.device)
        for ids in self.among.split(CHUNK):
            rows = self.unembedding[ids].float() - self.mean
            total.addmm_(rows.T, rows)
        return total / len(self.among)

    @cached_property
    def pooled(self) -> Float[Tensor, "pooled d_model"]:
        """Unembedding of the terms, or their mean as one row."""
        rows = self.unembedding[self.terms].float()
        return rows.mean(dim=0, keepdim=True) if self.pool == "mean" else rows

    @cached_property
    def real(self) -> Float[Tensor, "real d_model"]:
        """Unembedding of the tokens that count."""
        return self.unembedding[self.among].float()

    @cached_property
    def where(self) -> Int[Tensor, " found"]:
        """The terms' places in `among`.

        Raises:
            BadInput: when every term is a special token.
        """
        found = torch.isin(self.among, self.terms.to(self.among.device)).nonzero()[:, 0]
        if not len(found):
            raise BadInput(
                "None of the concept's terms is an ordinary token of this tokenizer, so none can be among a vector's "
                "top tokens. Give answers that the tokenizer can spell, or choose another score than 'overlap'"
            )
        return found

    def pull(self, vectors: Float[Tensor, "n d_model"], centred: bool = True) -> Float[Tensor, " n"]:
        """The strongest logit of the pooled terms, with its sign, less the mean logit when `centred`."""
        logits = vectors @ (self.pooled - self.mean if centred else self.pooled).T
        return logits.gather(1, logits.abs().argmax(dim=1, keepdim=True))[:, 0]

    def standardised(self, vectors: Float[Tensor, "n d_model"]) -> Float[Tensor, " n"]:
        """The pull in standard deviations of the vector's logits."""
        variance = ((vectors @ self.covariance) * vectors).sum(dim=1)
        return self.pull(vectors) / variance.clamp(min=1e-24).sqrt()

    def overlap(self, vectors: Float[Tensor, "n d_model"], k: int) -> Float[Tensor, " n"]:
        """Jaccard index of the vector's k top tokens and the terms; minus that of its k bottom ones if larger."""
        logits = vectors @ self.real.T
        up, down = (count_inside(logits, self.where, k, largest) for largest in (True, False))
        both = torch.where(up >= down, up, down) * vectors.any(dim=1)  # all logits of a zero vector are equal
        index = both / (k + len(self.where) - both)
        return torch.where(up >= down, index, -index)


def scan(
    mlps: Sequence[Float[Tensor, "_ d_model"]],
    against: Against,
    how: How,
    k: int = 200,
    progress: Progress | None = None,
) -> Scanned:
    """Score value vectors by their logits.

    Args:
        mlps: value vectors, one a row.
        against: the vocabulary and the terms.
        how: see `ConceptVectors.score`.
        k: length of the lists that `overlap` compares.
        progress: told after every chunk how many vectors are done, and of how many.
    """
    size = CHUNK if how != "overlap" else max(1, min(CHUNK, ENTRIES // len(against.among)))
    total, done, parts = sum(map(len, mlps)), 0, []
    for chunk in (chunk.float() for rows in mlps for chunk in rows.split(size)):
        parts.append(_scored(chunk, against, how, k))
        done += len(chunk)
        if progress:
            progress(done, total)
    return Scanned(*(torch.cat([part[i].cpu() for part in parts]) for i in range(3)))


def _scored(
    chunk: Float[Tensor, "n d_model"], against: Against, how: How, k: int
) -> tuple[Float[Tensor, " n"], Int[Tensor, " n"], Float[Tensor, " n"]]:
    """Scores, signs and what decides ties."""
    if how == "published":
        pull = against.pull(chunk)
        return chunk @ against.mean, signs_of(pull), pull.abs()
    if how == "average":
        pull = against.pull(chunk, centred=False)
        return pull.abs(), signs_of(pull), pull.abs()
    ties = against.standardised(chunk)
    signed = ties if how == "standardised" else against.overlap(chunk, k)
    return signed.abs(), signs_of(torch.where(signed == 0, ties, signed)), ties.abs()


def signs_of(pull: Float[Tensor, " n"]) -> Int[Tensor, " n"]:
    """1 or -1; what pulls nowhere counts as 1."""
    return torch.where(pull < 0, -1, 1)


def count_inside(
    logits: Float[Tensor, "n vocab"], where: Int[Tensor, " found"], k: int, largest: bool
) -> Int[Tensor, " n"]:
    """How many of some columns are among each row's k largest entries (or smallest)."""
    n, width = logits.shape
    block = max(1, min(BLOCK, width // (2 * k)))
    usable = logits[:, : width // block * block].unflatten(1, (block, -1))
    at = logits[:, where]
    bound = _edge(usable.amax(dim=1) if largest else usable.amin(dim=1), k, largest)
    rows = _beyond(at, bound, largest).any(dim=1).nonzero()[:, 0]  # elsewhere k tokens are known to be stronger
    count = torch.zeros(n, dtype=torch.long, device=logits.device)
    count[rows] = _beyond(at[rows], _edge(logits[rows], k, largest), largest).sum(dim=1)
    return count


def _edge(values: Float[Tensor, "n m"], k: int, largest: bool) -> Float[Tensor, "n 1"]:
    """The k-th largest (or smallest) of each row."""
    best = values.topk(k, dim=1, largest=largest, sorted=False).values
    return (best.amin if largest else best.amax)(dim=1, keepdim=True)


def _beyond(at: Float[Tensor, "n m"], edge: Float[Tensor, "n 1"], largest: bool) -> Tensor:
    return at >= edge if largest else at <= edge


def vocabulary(model: HookedModel) -> Int[Tensor, " real"]:
    """Ids of real tokens: padding rows of the unembedding and special tokens would pollute every list."""
    special = set(model.tokenizer.all_special_ids)
    size = min(len(model.tokenizer), len(model.unembedding))
    return torch.tensor([i for i in range(size) if i not in special], device=model.unembedding.device)


def top_ids(logits: Float[Tensor, "n vocab"], k: int, among: Int[Tensor, " real"]) -> Int[Tensor, "n k"]:
    """Ids of the k largest logits, among the tokens that count."""
    return among[logits[:, among].topk(min(k, len(among)), dim=1).indices]


def within_reach(k: int, among: Int[Tensor, " real"]) -> int:
    """At most a twentieth of the vocabulary: the top 200 of any two vectors of a small one overlap by chance."""
    return min(k, max(5, len(among) // 20), len(among))
