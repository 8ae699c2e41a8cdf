"""Who is sent where, kept as one table a layer, so that two states of a model can be held against each other.

Source: Zhuang et al. 2024, https://arxiv.org/abs/2411.18797, track |topK before and after| / K, mean over tokens and
layers. Read it as: 1 when every token goes to the same experts as before. Prompt and answer tokens count, padding not.
Does not show: whether an expert still does the same with what it gets. (`probes.expert_shift` compares two checkpoints
fact by fact; this is what an intervention says of its own work.)
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from workbench.concepts import Fact
from workbench.expert_effects import routings
from workbench.expert_gates import chosen_mask
from workbench.model import HookedModel
from workbench.sites import Site


@dataclass(frozen=True, eq=False)
class Choice:
    """Experts that every token of some facts is sent to."""

    by_layer: Mapping[int, Bool[Tensor, "token expert"]]
    """Mixture layer -> True where the token is sent to the expert."""

    def overlap(self, other: "Choice") -> dict[int, float]:
        """Share of the experts of each token that the other state chooses too, mean over tokens, by layer."""
        return {layer: _shared(here, other.by_layer[layer]) for layer, here in self.by_layer.items()}

    def share(self, expert: Site) -> float:
        """Share of the tokens that are sent to an expert."""
        assert expert.layer is not None and expert.index is not None
        return float(self.by_layer[expert.layer][:, expert.index].float().mean())

    def shift(self, before: "Choice", experts: Sequence[Site]) -> dict[str, Any]:
        """In JSON form: the overlap with an earlier choice, and the share of tokens sent to some experts."""
        by_layer = self.overlap(before)
        return {
            "overlap": sum(by_layer.values()) / len(by_layer),
            "overlap_by_layer": {f"L{layer}": value for layer, value in by_layer.items()},
            "sent_to": {str(site): {"before": before.share(site), "after": self.share(site)} for site in experts},
        }


def _shared(here: Bool[Tensor, "token expert"], there: Bool[Tensor, "token expert"]) -> float:
    by_token: Float[Tensor, " token"] = (here & there).sum(dim=-1) / here.sum(dim=-1)
    return float(by_token.mean())


@torch.no_grad()
def choice_of(model: HookedModel, facts: Sequence[Fact]) -> Choice:
    """Read the choice of experts in every mixture layer.

    Raises:
        BadInput: when the routing of a layer cannot be read.
    """
    parts: dict[int, list[Tensor]] = {layer: [] for layer in model.mixture_layers}
    for batch, routing in routings(model, model.encode(facts)):
        for layer, one in routing.items():
            parts[layer].append(chosen_mask(one)[batch.mask.to(one.logits.device)].bool().cpu())
    return Choice({layer: torch.cat(found) for layer, found in parts.items()})
