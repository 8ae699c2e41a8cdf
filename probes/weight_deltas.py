"""Weight deltas: where, by how much and in which directions do a model's weights differ from its base's?

Source: none to follow; norms as in `workbench.compare`, which streams both checkpoints from their files. The directions
of the change are read as value vectors are, through the raw unembedding (Geva et al. 2021,
https://arxiv.org/abs/2012.14913): the left singular vectors of each changed down-projection's difference against the
unembedding rows of the answers' first tokens, and against the base's value vectors that speak most for them.
Read it as: norm of the difference over the base's norm, pooled over a cell's tensors; 0 means the same numbers, a gap
that no such tensor exists. `alignment` in the notes: a cosine near 1, with a small p, is an edit made along an answer.
Does not show: what a change does. Small changes can carry much and large ones little, and an unlearning that only turns
away what looks the answers up (attention, gates) is aligned with nothing here. p counts the tokens tried in one
direction, not the number of directions: with many of them some fall below .05 by chance.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Float, Int
from pydantic import Field
from torch import Tensor

from workbench.checkpoint import Checkpoint
from workbench.compare import compare
from workbench.comparison import OUTSIDE, Comparison
from workbench.concepts import FactSet
from workbench.directions import beyond_chance, closeness, directions_of
from workbench.model import HookedModel
from workbench.registry import Method
from workbench.restoring import own_folder, stored_value, stored_weights
from workbench.shards import Shards
from workbench.sites import Site
from workbench.trace import Trace
from workbench.value_vectors import ValueVectors


class WeightDeltas(Method):
    """Relative size of the change of every layer's weights against the base, and what its directions say."""

    by: Literal["module", "matrix", "expert"] = "module"
    """What stands beside the layers: modules, single matrices, or experts (of a mixture)."""
    value: Literal["relative_change", "change_norm", "entries_changed"] = "relative_change"
    """The norm of the change over the base's, the norm itself, or how many numbers differ."""
    directions: int = Field(default=4, ge=0)
    """Leading directions of every changed down-projection that are held against the answers; 0 leaves that out."""
    vectors: int = Field(default=10, ge=1)
    """The base's value vectors in the same MLP that speak most for the answers, for the same comparison."""
    draws: int = Field(default=999, ge=1)
    """Random sets of tokens (of value vectors) that each cosine is compared with."""
    seed: int = 0
    """Of the random tokens."""

    @torch.no_grad()
    def look(self, model: HookedModel, facts: FactSet, against: Checkpoint) -> Trace:
        """Axes (layer, module), or (layer, matrix) or (layer, expert).

        Args:
            model: the changed model, open from a folder of its own.
            facts: whose answers the directions are held against.
            against: the base's files.

        Raises:
            BadInput: when the model is not what a folder stores, or the two are of different architectures.
        """
        about = model.about(facts)
        with stored_weights(against) as shards:
            found = compare(against, Checkpoint(own_folder(model), name=model.name))
            aligned = list(self._alignment(model, facts, found, shards)) if self.directions else []
        if self.by == "expert":
            model.experts_per_token  # noqa: B018  (says that a dense model has none)
        table = found.by("layer", self.by, self.value)
        labels = {
            "layer": tuple(label if label == OUTSIDE else f"L{label}" for label in table.index),
            self.by: tuple(map(str, table.columns)),
        }
        summary = found.summary()
        notes = {
            **about,
            "options": self.spec(),
            "against": against.name,
            "sentence": found.sentence(),
            "summary": {key: value for key, value in summary.items() if key != "experts"},
            "experts_changed": [list(pair) for pair in summary["experts"]],
            "compared": list(found.notes),
            "spectra": _spectra(found),
            "alignment": aligned,
            "why_no_alignment": self._why(aligned),
        }
        units = {"relative_change": "share of the base's norm", "change_norm": "norm", "entries_changed": "entries"}
        return Trace("weight_deltas", table.to_numpy(), ("layer", self.by), units[self.value], labels, notes)

    def _alignment(
        self, model: HookedModel, facts: FactSet, found: Comparison, shards: Shards
    ) -> Iterator[dict[str, Any]]:
        """One entry a leading direction of each changed down-projection."""
        terms = torch.tensor(sorted({e.answer[0] for e in model.encode(facts.facts)}))
        words = _Words(model.unembedding.float().cpu(), terms)
        changed = found.changed[found.changed["module"].isin(("mlp", "shared expert"))]
        layers = {int(layer) for layer in changed["layer"].dropna()}
        name, before = "", torch.zeros(0)
        for site, store in model.down_projections():
            if site.layer not in layers:
                continue
            if store.name != name:  # the experts of a layer lie in one parameter
                name, before = store.name, stored_value(model, store.name, shards)
            pair = _vectors(store, before, site).float(), _vectors(store, store.weight, site).float().cpu()
            yield from self._of_mlp(model, site, pair, words)

    def _of_mlp(
        self,
        model: HookedModel,
        site: Site,
        pair: tuple[Float[Tensor, "neuron d_model"], Float[Tensor, "neuron d_model"]],
        words: "_Words",
    ) -> Iterator[dict[str, Any]]:
        """One entry a leading direction of the change of one MLP or expert."""
        before, after = pair
        change = after - before
        parts = directions_of(change, self.directions, self.seed)
        speaking = self._speaking(before, words.unembedding[words.terms])
        for i, direction in enumerate(parts.vectors):
            tokens, neurons = closeness(direction, words.unembedding), closeness(direction, before)
            best, vector = words.terms[tokens[words.terms].argmax()], speaking[neurons[speaking].argmax()]
            yield {
                "site": str(site),
                "direction": i,
                "singular_value": float(parts.values[i]),
                "share": float(parts.share[i]),
                "neurons_changed": int((change.abs().amax(dim=1) > 0).sum()),
                "answer_token": model.tokenizer.decode([int(best)]),
                "answer_cosine": float(tokens[best]),
                "answer_p": self._chance(tokens, words.terms),
                "nearest_token": model.tokenizer.decode([int(tokens.argmax())]),
                "nearest_cosine": float(tokens.max()),
                "vector": str(Site(site.layer, site.part, int(vector), site.expert)),
                "vector_cosine": float(neurons[vector]),
                "vector_p": self._chance(neurons, speaking),
            }

    def _speaking(
        self, vectors: Float[Tensor, "neuron d_model"], answers: Float[Tensor, "term d_model"]
    ) -> Int[Tensor, " k"]:
        """The value vectors that push some answer furthest, either way."""
        return (vectors @ answers.T).abs().amax(dim=1).topk(min(self.vectors, len(vectors))).indices

    def _chance(self, cosines: Float[Tensor, " row"], ours: Int[Tensor, " n"]) -> float | None:
        """p-value of the largest of our cosines among the others'; None where there are no others."""
        rest = torch.ones(len(cosines), dtype=torch.bool)
        rest[ours] = False
        if not rest.any():
            return None
        return beyond_chance(float(cosines[ours].max()), cosines[rest], len(ours), self.draws, self.seed)

    def _why(self, aligned: Sequence[dict[str, Any]]) -> str | None:
        if aligned:
            return None
        return "no down-projection was changed" if self.directions else "it was not asked for (directions=0)"


@dataclass(frozen=True, eq=False)
class _Words:
    """What directions are held against."""

    unembedding: Float[Tensor, "vocab d_model"]
    terms: Int[Tensor, " term"]
    """First tokens of the answers."""


def _vectors(store: ValueVectors, weight: Tensor, site: Site) -> Float[Tensor, "neuron d_model"]:
    """One value vector a row, of one MLP or expert, from a tensor shaped like the parameter."""
    rows = store.as_rows(weight)
    return rows if site.expert is None else rows[site.expert]


def _spectra(found: Comparison) -> list[dict[str, Any]]:
    """Rank and leading singular values of every changed matrix, most changed first."""
    changed = found.changed[found.changed["rank"].notna()]
    rows = changed[["tensor", "expert", "status", "rank", "rank_is_at_least", "stable_rank", "top_share"]]
    listed = [{str(key): _plain(value) for key, value in row.items()} for row in rows.to_dict("records")]
    return [
        row | {"singular_values": [float(v) for v in values or ()]}
        for row, values in zip(listed, changed["singular_values"], strict=True)
    ]


def _plain(value: Any) -> Any:
    """In JSON form; None for what is missing."""
    if value is None or value is np.nan or value != value or str(value) == "<NA>":
        return None
    return value.item() if isinstance(value, np.generic) else value
