"""Expert attribution: which experts of a mixture are at work when the model gives these answers?

Source: the affinity score of SEUF / UOE (Zhuang et al. 2024, https://arxiv.org/abs/2411.18797, after ESFT): mean over
sequences of the mean over tokens of the router's probability, kept where the expert is among the chosen ones. The
published formula leaves open which gate value is meant, so all readings are options. For routers with a softmax over
all experts. `score="gradient"` is first-order knock-out: gradient x weight, summed over the expert's neurons.
Read it as: affinity says where the text is sent, gradient what the answer's logit would lose without the expert.
Does not show: where knowledge is stored. Affinity follows traffic and can miss the expert that holds the facts; hold
it against the same reading on the near facts, and confirm by an edit.
"""

from typing import Literal

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from workbench.attribution import neuron_effects
from workbench.concepts import FactSet
from workbench.model import HookedModel
from workbench.registry import Method
from workbench.scoring import chunks
from workbench.sites import Site
from workbench.trace import Trace

Gate = Literal["kept", "full", "renormalised"]
"""What counts as the gate value of an expert."""


class ExpertAttribution(Method):
    """How much every expert has to do with the facts."""

    score: Literal["affinity", "gradient"] = "affinity"
    """Traffic (share of the routing probability), or the first-order effect on the answer's logit."""
    gate: Gate = "kept"
    """For affinity: the router's probability where the expert is chosen and 0 elsewhere (as published), the `full`
    softmax, or the chosen probabilities `renormalised` to sum to 1."""

    def look(self, model: HookedModel, facts: FactSet) -> Trace:
        """Score every expert of every mixture layer on every fact.

        Raises:
            BadInput: on a dense model.
        """
        top_k, about = model.experts_per_token, model.about(facts)  # refuse dense models and empty sets first
        values = self._affinities(model, facts, top_k) if self.score == "affinity" else _effects(model, facts)
        sites = tuple(
            str(Site(layer, "expert", e))
            for layer in model.mixture_layers
            for e in range(model.anatomy.mixtures[layer].n_experts)
        )
        labels = {"site": sites, "fact": facts.labels}
        units = "share of routing probability" if self.score == "affinity" else "logits"
        return Trace(
            "expert_attribution",
            values.numpy(),
            ("site", "fact"),
            units,
            labels,
            about
            | {
                "options": self.spec(),
                "experts_per_token": top_k,
                "axes": {
                    "site": "experts, L2.expert[5] is expert 5 of layer 2",
                    "fact": "one sequence each: prompt and answer, all tokens",
                },
            },
        )

    @torch.no_grad()
    def _affinities(self, model: HookedModel, facts: FactSet, top_k: int) -> Float[Tensor, "site fact"]:
        routers = [Site(layer, "router") for layer in model.mixture_layers]
        parts = []
        for batch, _ in chunks(model.encode(facts.facts)):
            acts = model.run(batch, read=routers, logits=False).acts
            logits = [acts[site].cpu() for site in routers]
            parts.append(torch.cat([affinity(layer, batch.mask, top_k, self.gate).T for layer in logits]))
        return torch.cat(parts, dim=1)


def affinity(
    router_logits: Float[Tensor, "row pos expert"], mask: Bool[Tensor, "row pos"], top_k: int, gate: Gate = "kept"
) -> Float[Tensor, "row expert"]:
    """Mean gate value of every expert over the tokens of each row; the paper's score is the mean of that over rows."""
    value = router_logits.to(torch.promote_types(router_logits.dtype, torch.float32)).softmax(dim=-1)
    if gate != "full":
        kept, chosen = value.topk(top_k, dim=-1)
        kept = kept / kept.sum(dim=-1, keepdim=True) if gate == "renormalised" else kept
        value = torch.zeros_like(value).scatter(-1, chosen, kept)
    return (value * mask[..., None]).sum(dim=1) / mask.sum(dim=1, keepdim=True)


def _effects(model: HookedModel, facts: FactSet) -> Float[Tensor, "site fact"]:
    """First-order effect of every expert on every answer, one backward pass a fact."""
    columns = []
    for fact in facts:
        effects = neuron_effects(model, [fact])
        columns.append(torch.stack([e.sum().cpu() for site, e in effects.items() if site.expert is not None]))
    return torch.stack(columns, dim=1)
