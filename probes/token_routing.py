"""Token routing: to which experts does the router send every token of a few facts, and how sure is it?

Source: Jiang et al. 2024 (Mixtral), https://arxiv.org/abs/2401.04088, who colour every token of a text by the expert
that is chosen first. Variant: the router's probability of every expert, and the weight that a chosen expert's output is
multiplied by, for prompt and answer alike; for the probabilities of routers that are no softmax over all experts see
`workbench.expert_gates`.
For pages that show single facts; no claim rests on it. Kept in half precision (three digits).
Read it as: the probabilities of a token sum to 1 over the experts of a layer; a weight is there for the chosen experts
only. Two models differ at a token where another expert is chosen, not where a probability moves a little.
Does not show: what an expert does with a token, nor many facts at once (`expert_attribution` by frequency does).
"""

from collections.abc import Mapping

import numpy as np
import torch
from jaxtyping import Float
from pydantic import Field
from torch import Tensor

from workbench.concepts import FactSet
from workbench.expert_effects import routings
from workbench.expert_gates import Router, chosen_mask, gate_values, probabilities, router_of
from workbench.model import HookedModel
from workbench.model_experts import Routing
from workbench.registry import Method
from workbench.token_strings import strings_of
from workbench.trace import Trace

MEASURES = {
    "probability": "the router's probability of the expert; missing for a router whose function is not known",
    "weight": "what the expert's output is multiplied by; missing where the token is not sent to it",
}
"""What is read of every token and expert."""


class TokenRouting(Method):
    """The router's probability, and the weight of the chosen experts, at every token of a few facts."""

    max_facts: int = Field(20, ge=1)
    """Facts that are read, from the first on: each is a map of its own."""

    @torch.no_grad()
    def look(self, model: HookedModel, facts: FactSet) -> Trace:
        """Axes (measure, fact, layer, token, expert); NaN behind a fact's end, and for experts a layer does not have.

        Raises:
            BadInput: on a dense model, or when there are no facts.
        """
        top_k = model.experts_per_token  # refuses dense models
        facts = facts.model_copy(update={"facts": facts.facts[: self.max_facts]})
        about, encoded = model.about(facts), model.encode(facts.facts)
        experts = max(model.anatomy.mixtures[layer].n_experts for layer in model.mixture_layers)
        shape = (len(MEASURES), len(encoded), len(model.mixture_layers), max(len(e.ids) for e in encoded), experts)
        values, fact = np.full(shape, np.nan, np.float16), 0
        router: Router | None = None
        for batch, routing in routings(model, encoded):
            router = router or router_of(routing.values())
            for row, mask in enumerate(batch.mask.to(model.device)):
                for layer, one in enumerate(routing.values()):
                    read = _read(one, router)[:, row, mask].cpu().numpy()
                    values[:, fact, layer, : read.shape[1], : read.shape[2]] = read
                fact += 1
        notes = {
            **about,
            "options": self.spec(),
            "axes": {"measure": MEASURES, "layer": "the router of that block"},
            "experts_per_token": top_k,
            "router": router,
            "prompt": [model.prompted(one).prompt for one in facts],
            "answer": [one.answer for one in facts],
            "prompt_tokens": [e.answer_start for e in encoded],
            "tokens": [strings_of(model.tokenizer, e.ids) for e in encoded],
        }
        labels = _labels(facts, model, shape)
        return Trace("token_routing", values, tuple(labels), "see measure", labels, notes)


def _labels(facts: FactSet, model: HookedModel, shape: tuple[int, ...]) -> Mapping[str, tuple[str, ...]]:
    return {
        "measure": tuple(MEASURES),
        "fact": facts.labels,
        "layer": tuple(f"L{layer}" for layer in model.mixture_layers),
        "token": tuple(map(str, range(shape[3]))),
        "expert": tuple(map(str, range(shape[4]))),
    }


def _read(routing: Routing, router: Router | None) -> Float[Tensor, "measure row pos expert"]:
    sent = chosen_mask(routing) > 0
    weight = gate_values(routing, "used", None).masked_fill(~sent, torch.nan)
    known = torch.full_like(weight, torch.nan) if router is None else probabilities(routing, router)
    return torch.stack([known.to(weight), weight])
