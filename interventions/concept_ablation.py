"""Concept-vector ablation: damage the value vectors that write the concept's answers into the residual stream.

Source: Hong et al. 2024, https://arxiv.org/abs/2406.11614 ("Needle"): noise on the vectors, then gradient ascent on the
forget facts that moves these vectors alone. `mode="needle"` is both, `noise` (the default) the first step only.
Published noise is N(0, 0.1^2) per entry for a width of 4096, about six times a column's norm, and the ascent's learning
rate is 0.2, which it only warms up to (one epoch, warm-up of one epoch). Here sigma is scaled by the vector's norm and
the rate by the noise, so that both mean the same in any model; `published` gives 0.1, 0.2 and the warm-up.
Departure: the published code masks the gradient only, so AdamW's weight decay (0.01) shrinks every other entry of the
down-projection and the embeddings too. Here the change is masked: all other entries keep their very bits.
Expect: facts whose knowledge sits in few vectors go at once; where it is spread, a handful of vectors carries little.
The ascent has no retain loss and no floor: long or fast, it also drowns facts for which these neurons barely stir. In
planted dense models the published rate cost half of the near facts of one seed in three; the default rate cost none.
Always fit the same edit on as many random neurons (`HookedModel.random_neurons`): only the difference is a finding.
Cannot do: remove what attention or the embeddings hold.
"""

from collections.abc import Sequence
from typing import Any, ClassVar, Literal

import torch
from jaxtyping import Float
from pydantic import Field
from torch import Tensor
from transformers import PreTrainedModel

from interventions.gradient.descend import Progress
from workbench.attribution import neuron_effects
from workbench.concepts import Concept
from workbench.edits import WeightEdit, fit_weights
from workbench.errors import BadInput, RunError
from workbench.intervention import Intervention
from workbench.model import HookedModel
from workbench.objectives import answer_nll, labelled
from workbench.regions import only, region_of
from workbench.sites import Site, layers_of
from workbench.training import TrainingOptions

PUBLISHED_NOISE, PUBLISHED_RATE = 0.1, 0.2
"""Standard deviation of the paper's noise per entry, and the rate its ascent warms up to."""


class ConceptAblation(Intervention):
    """Noise, zero, shrink or needle (noise, then train away) value vectors."""

    localised: ClassVar[bool] = True

    mode: Literal["noise", "zero", "shrink", "needle"] = "noise"
    """What happens to each vector: noise added, set to zero, scaled by `keep`, or noise and then gradient ascent."""
    sigma: float = Field(6.0, gt=0, allow_inf_nan=False)
    """Norm of the noise in multiples of the vector's own norm."""
    published: bool = False
    """Use the paper's absolute noise of 0.1 per entry instead of `sigma`, and its ascent: rate 0.2, warmed up to."""
    keep: float = Field(0.1, ge=0, lt=1)
    """Share of each vector that `shrink` leaves."""
    count: int = Field(48, ge=1)
    """How many neurons to choose when a site is a whole layer or expert and not a neuron."""
    ascent_steps: int = Field(10, ge=1)
    """Updates of the ascent of `needle`."""
    ascent_lr: float = Field(0.02, gt=0, le=1000)
    """Learning rate of the ascent (AdamW without weight decay) in multiples of the noise per entry; published is 2."""
    batch_size: int = Field(32, ge=1)
    """Forget facts an update of the ascent (published: 4 texts, 8 times added up)."""
    seed: int = 0
    """Seed of the noise, and of the order of facts in the ascent."""

    def fit(
        self, model: HookedModel, concept: Concept, where: Sequence[Site], *, progress: Progress | None = None
    ) -> WeightEdit:
        """Damage the neurons in `where`.

        A site that is no neuron names its layer (or expert), in which the `count` neurons that speak most for the
        forget facts, and not for the near ones, are chosen.

        Args:
            model: unchanged afterwards.
            concept: forget facts, for `needle` and for the choice of neurons.
            where: neurons, or layers and experts to choose them in.
            progress: called after every step of the ascent with its number and the loss (minus the answers' NLL).

        Raises:
            BadInput: when `where` is empty or names no layer.
            RunError: when the ascent's loss or a vector is no longer a finite number.
        """
        neurons, notes = self._neurons(model, concept, where)
        stored = model.stored_at(neurons)
        region = region_of(model, neurons)
        generator = torch.Generator().manual_seed(self.seed)

        def damage() -> dict[str, Any]:
            size = sum(self._noise(vector) for _, vector in stored) / len(stored)
            with torch.no_grad():
                for _, vector in stored:
                    vector.copy_(self.damaged(vector, generator))
            said = notes
            if self.mode == "needle":
                with only(model, region):
                    items = model.encode(concept.forget.facts)
                    options = self._ascent(size)
                    log = model.train(items, labelled, ascent, options, trainable=region.names, on_step=progress)
                said = {**notes, "losses": list(log.losses)}
            if not all(vector.isfinite().all() for _, vector in stored):
                raise RunError(
                    f"The vectors of {model.name} would not be finite; lower sigma, ascent_lr or ascent_steps"
                )
            return said

        return fit_weights(model, region.names, damage, self.spec())

    def damaged(self, vector: Tensor, generator: torch.Generator) -> Tensor:
        """The vector as it will be."""
        if self.mode == "zero":
            return torch.zeros_like(vector)
        if self.mode == "shrink":
            return vector * self.keep
        noise = torch.randn(vector.shape, generator=generator).to(vector.device, vector.dtype)
        return vector + self._noise(vector) * noise

    def _noise(self, vector: Tensor) -> float:
        """Standard deviation of the noise, per entry."""
        return PUBLISHED_NOISE if self.published else self.sigma * float(vector.detach().norm()) / vector.numel() ** 0.5

    def _ascent(self, noise: float) -> TrainingOptions:
        """How the ascent trains; `noise` is the mean standard deviation of what was added, per entry."""
        rate = PUBLISHED_RATE if self.published else self.ascent_lr * noise
        n, lr = self.ascent_steps, max(rate, torch.finfo(torch.float32).tiny)
        rising = self.published and n > 1
        return TrainingOptions(
            steps=n,
            batch_size=self.batch_size,
            lr=lr * (n - 1) / n if rising else lr,  # step i of a warm-up over all n steps has i / n of the rate
            warmup_steps=n - 1 if rising else 0,
            seed=self.seed,
        )

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


def ascent(model: PreTrainedModel, batch: dict[str, Tensor]) -> Float[Tensor, ""]:
    """Minus the mean token loss of the answers: made smaller, the answers become less likely."""
    return -answer_nll(model, batch)


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
