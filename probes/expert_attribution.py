"""Expert attribution: which experts of a mixture are at work when the model gives these answers?

Source: the affinity score of SEUF / UOE (Zhuang et al. 2024, https://arxiv.org/abs/2411.18797, after ESFT): mean over
sequences of the mean over tokens of the router's probability, kept where the expert is among the chosen ones; all pairs
of layer and expert are ranked together. The published formula leaves open which gate value is meant, so all readings
are options. Affinity is traffic: on planted experts it can miss the one that holds the facts, so the size of what an
expert adds, the effect of knocking it out and its first-order estimate are offered beside it
(`workbench.expert_effects`). For routers that are no softmax over all experts see `workbench.expert_gates`. Experts
that every token passes (shared ones) have no gate and are not scored.
Read it as: affinity, frequency and contribution say where the text is sent and what comes back; knock-out and gradient
what the answer's logit would lose without the expert (the others' weights are not renormalised). All tokens of prompt
and answer count alike. Experts that work on all text score high everywhere: `contrast` takes the near facts off.
Does not show: where knowledge is stored. Experts that can stand in for each other read low one by one; confirm by an
edit.
"""

from typing import Literal

import numpy as np
import torch
from jaxtyping import Float
from pydantic import Field
from torch import Tensor

from workbench.concepts import FactSet
from workbench.errors import BadInput
from workbench.expert_effects import (
    Progress,
    affinities,
    contribution_norms,
    expert_sites,
    gradient_effects,
    knockout_effects,
    routings,
)
from workbench.expert_gates import Gate, Router, chosen_mask, token_mean
from workbench.model import HookedModel
from workbench.registry import Method
from workbench.trace import Trace

Score = Literal["affinity", "frequency", "contribution", "knockout", "gradient"]

UNITS = {
    "affinity": "share of routing probability",
    "frequency": "share of the choices",
    "contribution": "length of what is added",
    "knockout": "logits",
    "gradient": "logits",
}
"""Unit of each score; a contrast has the same."""

DRAWS = 20
"""Random subsets over which the overlap with the full set is averaged."""


class ExpertAttribution(Method):
    """How much every expert has to do with the facts."""

    score: Score = "gradient"
    """Traffic: `affinity` (share of the routing probability) or `frequency` (share of the tokens' choices). What comes
    back: `contribution` (length of routing weight x output, before the block scales it). Effect on the answer's logit:
    `knockout` (a pass an expert and fact), or `gradient` (first order, one backward pass for all)."""
    gate: Gate = "kept"
    """For affinity: the router's probability where the expert is chosen and 0 elsewhere (as published), the `full`
    probability, the chosen weights `renormalised` to sum to 1, or the weights as `used`. A sigmoid router's
    probability (DeepSeek-V3) is its score divided by the sum of all scores."""
    contrast: Literal["none", "near", "far", "both"] = "none"
    """Take off each expert's mean score on the `near` facts, the `far` facts, or the mean of these two means."""
    subset_tokens: int | None = Field(default=None, ge=1)
    """Also say (in the notes) how many of the best experts remain when only so many tokens, or a few more, are read."""
    subset_top: int = Field(default=10, ge=1)
    """How many of the best experts that comparison is about."""
    seed: int = 0
    """Of the random subsets."""

    def look(
        self,
        model: HookedModel,
        facts: FactSet,
        near: FactSet | None = None,
        far: FactSet | None = None,
        progress: Progress | None = None,
    ) -> Trace:
        """Score every expert of every mixture layer on every fact.

        Args:
            model: a mixture of experts.
            facts: what to look for.
            near: neighbours, for `contrast`.
            far: unrelated facts, for `contrast`.
            progress: told of knock-outs done and in all.

        Raises:
            BadInput: on a dense model, or when the facts to contrast with are missing.
        """
        top_k, about = model.experts_per_token, model.about(facts)  # refuse dense models and empty sets first
        others = self._others(near, far)
        values, router = self._scores(model, facts, progress)
        off = {name: self._scores(model, other, progress)[0].mean(dim=1) for name, other in others.items()}
        if off:
            values = values - torch.stack(list(off.values())).mean(dim=0)[:, None]
        labels = {"site": tuple(map(str, expert_sites(model))), "fact": facts.labels}
        return Trace(
            "expert_attribution",
            values.numpy(),
            ("site", "fact"),
            UNITS[self.score],
            labels,
            about
            | {
                "options": self.spec(),
                "experts_per_token": top_k,
                "router": router,
                "contrast": {name: {"facts": others[name].name, "mean": mean.tolist()} for name, mean in off.items()},
                "subset": self._subset(model, facts, values),
                "axes": {
                    "site": "experts, L2.expert[5] is expert 5 of layer 2",
                    "fact": "one sequence each: prompt and answer, all tokens",
                },
            },
        )

    def _others(self, near: FactSet | None, far: FactSet | None) -> dict[str, FactSet]:
        """The facts to contrast with."""
        wanted = {"none": (), "both": ("near", "far")}.get(self.contrast, (self.contrast,))
        given = {"near": near, "far": far}
        found = {name: facts for name in wanted if (facts := given[name])}
        missing = [name for name in wanted if name not in found]
        if missing:
            raise BadInput(f"contrast={self.contrast!r} needs {missing[0]} facts: give some, or use contrast='none'")
        return found

    def _scores(
        self, model: HookedModel, facts: FactSet, progress: Progress | None
    ) -> tuple[Float[Tensor, "site fact"], Router | None]:
        """The scores, and what kind of router was found where that matters."""
        if self.score == "gradient":
            return gradient_effects(model, facts.facts), None
        if self.score == "knockout":
            return knockout_effects(model, facts.facts, progress), None
        if self.score == "contribution":
            return contribution_norms(model, facts.facts), None
        return self._traffic(model, facts)

    @torch.no_grad()
    def _traffic(self, model: HookedModel, facts: FactSet) -> tuple[Float[Tensor, "site fact"], Router | None]:
        if self.score == "affinity":
            return affinities(model, facts.facts, self.gate)
        parts = []
        for batch, routing in routings(model, model.encode(facts.facts)):
            values = [chosen_mask(one) / model.experts_per_token for one in routing.values()]
            parts.append(torch.cat([token_mean(value, batch.mask).T.cpu() for value in values]))
        return torch.cat(parts, dim=1), None

    def _subset(
        self, model: HookedModel, facts: FactSet, values: Float[Tensor, "site fact"]
    ) -> dict[str, object] | None:
        """How well a subset of the tokens ranks the experts; None when that was not asked for."""
        if self.subset_tokens is None:
            return None
        lengths = np.array([len(encoded.ids) for encoded in model.encode(facts.facts)])
        about = {"tokens": self.subset_tokens, "of": int(lengths.sum()), "top": min(self.subset_top, len(values))}
        if self.subset_tokens >= lengths.sum():
            return about | {"overlap": None, "why": "the subset would be all facts"}
        found = subset_overlap(values.double().numpy(), lengths, self.subset_tokens, self.subset_top, self.seed)
        return about | {"overlap": found, "draws": DRAWS}


def subset_overlap(values: np.ndarray, lengths: np.ndarray, tokens: int, top: int, seed: int) -> float:
    """Share of the best experts that random subsets of at least so many tokens name too, mean over `DRAWS` subsets.

    Args:
        values: (expert, fact).
        lengths: tokens of each fact.
        tokens: facts are drawn until they have as many.
        top: how many of the best are compared.
        seed: of the draws.
    """
    random, best = np.random.default_rng(seed), _best(values, top)
    shares = []
    for _ in range(DRAWS):
        order = random.permutation(len(lengths))
        count = int(np.searchsorted(np.cumsum(lengths[order]), tokens)) + 1
        shares.append(len(best & _best(values[:, order[:count]], top)) / len(best))
    return float(np.mean(shares))


def _best(values: np.ndarray, top: int) -> set[int]:
    return set(np.argsort(-values.mean(axis=1), kind="stable")[:top].tolist())
