"""Concept-vector ablation: damage the value vectors that write the concept's answers into the residual stream.

Source: Hong et al. 2024, https://arxiv.org/abs/2406.11614 ("Needle", its noise step; the ascent that follows it in the
paper is not part of this variant). Published noise is N(0, 0.1^2) per entry for a width of 4096, about six times a
column's norm; here sigma is scaled by the column's norm so that it means the same in any model, and `published` gives
the absolute 0.1.
Expect: facts whose knowledge sits in few vectors go at once; where it is spread, a handful of vectors carries little.
Always fit the same edit on as many random neurons (`HookedModel.random_neurons`): only the difference is a finding.
Cannot do: remove what attention or the embeddings hold.
"""

from collections.abc import Sequence
from typing import Any, Literal

import torch
from pydantic import Field
from torch import Tensor

from workbench.attribution import neuron_effects
from workbench.concepts import Concept
from workbench.edits import WeightEdit, fit_weights
from workbench.errors import BadInput
from workbench.model import HookedModel
from workbench.registry import Method
from workbench.sites import Site, layers_of


class ConceptAblation(Method):
    """Noise, zero or shrink value vectors."""

    mode: Literal["noise", "zero", "shrink"] = "noise"
    """What happens to each vector: noise added, set to zero, or scaled by `keep`."""
    sigma: float = Field(6.0, gt=0)
    """Norm of the noise in multiples of the vector's own norm."""
    published: bool = False
    """Use the paper's absolute noise of 0.1 per entry instead of `sigma`."""
    keep: float = Field(0.1, ge=0, lt=1)
    """Share of each vector that `shrink` leaves."""
    count: int = Field(48, ge=1)
    """How many neurons to choose when a site is a whole layer or expert and not a neuron."""
    seed: int = 0
    """Seed of the noise."""

    def fit(self, model: HookedModel, concept: Concept, where: Sequence[Site]) -> WeightEdit:
        """Damage the neurons in `where`.

        A site that is no neuron names its layer (or expert), in which the `count` neurons that speak most for the
        forget facts, and not for the near ones, are chosen.

        Raises:
            BadInput: when `where` is empty or names no layer.
        """
        neurons, notes = self._neurons(model, concept, where)
        stored = model.stored_at(neurons)
        generator = torch.Generator().manual_seed(self.seed)

        def damage() -> dict[str, Any]:
            with torch.no_grad():
                for _, vector in stored:
                    vector.copy_(self.damaged(vector, generator))
            return notes

        return fit_weights(model, sorted({name for name, _ in stored}), damage, self.spec())

    def damaged(self, vector: Tensor, generator: torch.Generator) -> Tensor:
        """The vector as it will be."""
        if self.mode == "zero":
            return torch.zeros_like(vector)
        if self.mode == "shrink":
            return vector * self.keep
        noise = torch.randn(vector.shape, generator=generator).to(vector.device, vector.dtype)
        scale = 0.1 if self.published else self.sigma * float(vector.norm()) / vector.numel() ** 0.5
        return vector + scale * noise

    def _neurons(
        self, model: HookedModel, concept: Concept, where: Sequence[Site]
    ) -> tuple[list[Site], dict[str, Any]]:
        """The neurons to damage, ascending, and what to say about the choice."""
        given = [site for site in where if site.part == "mlp_act" and site.index is not None]
        coarse = [site for site in where if site not in given]
        if not layers_of(where):
            raise BadInput(
                f"concept_ablation needs sites: neurons like L5.mlp_act[412], or layers and experts to choose "
                f"neurons in, like L5.mlp_out or L2.expert[3]; got {[str(s) for s in where]}"
            )
        chosen = choose_neurons(model, concept, coarse, self.count) if coarse else []
        neurons = sorted({*given, *chosen}, key=str)
        return neurons, {"asked": [str(s) for s in where], "neurons": [str(s) for s in neurons]}


def choose_neurons(model: HookedModel, concept: Concept, coarse: Sequence[Site], count: int) -> list[Site]:
    """The `count` neurons within some layers or experts that speak most for the forget facts and not the near ones."""
    effects = neuron_effects(model, concept.forget.facts)
    if len(concept.near):
        near = neuron_effects(model, concept.near.facts)
        effects = {site: effect - near[site] for site, effect in effects.items()}
    ranked = [
        (-value, Site(site.layer, "mlp_act", neuron, site.expert))
        for site, effect in effects.items()
        if any(_covers(wider, site) for wider in coarse)
        for neuron, value in enumerate(effect.tolist())
    ]
    return [site for _, site in sorted(ranked, key=lambda pair: pair[0])[:count]]


def _covers(wider: Site, neurons: Site) -> bool:
    """Whether the neurons of an MLP or expert lie in a layer, or in the expert, that a wider site names."""
    expert = wider.index if wider.part == "expert" else wider.expert
    return wider.layer == neurons.layer and expert in (None, neurons.expert)
