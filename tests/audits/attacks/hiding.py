"""Ways to hide the planted facts without removing them, as weight edits; and to remove them."""

from collections.abc import Callable

import torch

from interventions.concept_ablation import ConceptAblation
from workbench.concepts import Fact
from workbench.demo.planted import Planted
from workbench.edits import WeightEdit, fit_weights
from workbench.model import HookedModel
from workbench.scoring import score

WRONG = "old"
"""The word a hidden fact is answered with."""


def share(model: HookedModel, facts: tuple[Fact, ...]) -> float:
    """Share of the answers that greedy decoding gives."""
    return float(score(model, facts).greedy.double().mean())


def says(model: HookedModel, word: str) -> torch.Tensor:
    """The unit direction that makes the model say a word."""
    row = model.unembedding[model.encode([Fact(subject="is", prompt="is", answer=word)])[0].answer[0]].detach()
    return row / row.norm()


def key(model: HookedModel, word: str) -> torch.Tensor:
    """The unit direction of a word's embedding."""
    (token,) = model.encode([Fact(subject="is", prompt="is", answer=word)])[0].answer
    row = model.parameter("model.embed_tokens.weight")[token].detach()
    return row / row.norm()


def free(model: HookedModel, layer: int) -> list[int]:
    """Neurons of a dense MLP that hold nothing."""
    gate = model.parameter(f"model.layers.{layer}.mlp.gate_proj.weight").detach()
    return (gate.norm(dim=1) < 0.25).nonzero()[:, 0].tolist()


def _mlp(model: HookedModel, layer: int) -> list[torch.Tensor]:
    return [model.parameter(name) for name in names(layer)]


def names(layer: int) -> list[str]:
    return [f"model.layers.{layer}.mlp.{part}_proj.weight" for part in ("gate", "up", "down")]


def edited(model: HookedModel, layer: int, change: Callable[[list[torch.Tensor]], None]) -> WeightEdit:
    def inside() -> None:
        with torch.no_grad():
            change(_mlp(model, layer))

    return fit_weights(model, names(layer), inside, {"method": "hiding"})


def steered(model: HookedModel, planted: Planted, strength: float = 6.0) -> WeightEdit:
    """The neurons of the forget facts write one more direction, the same for all: as RMU does."""
    columns = [site.index for site in planted.sites_of(planted.concept.forget.facts)]

    def change(mlp: list[torch.Tensor]) -> None:
        mlp[2][:, columns] += strength * says(model, WRONG)[:, None]

    return edited(model, 1, change)


def spoken_over(model: HookedModel, planted: Planted, strength: float, neurons: int) -> WeightEdit:
    """New neurons that fire for every forget subject and say another word; the fact's own stay as they are.

    The strength is shared by all of them: the more there are the smaller their weights.
    """
    facts = planted.concept.forget.facts
    where = free(model, 1)[:neurons]
    gate, up, _ = (weight.detach().clone() for weight in _mlp(model, 1))
    own = {fact.subject: planted.sites[fact.prompt].index for fact in facts}
    asked = {fact.relation: planted.sites[fact.prompt].index for fact in facts}

    def change(mlp: list[torch.Tensor]) -> None:
        for j in where:
            mlp[0][j] = gate[list(own.values())].sum(dim=0)
            mlp[1][j] = up[list(asked.values())].sum(dim=0)
            mlp[2][:, j] = strength / len(where) * says(model, WRONG)

    return edited(model, 1, change)


def muttered(model: HookedModel, strength: float) -> WeightEdit:
    """One neuron of the last layer that fires at the prompts' last word and says another word, whatever is asked."""
    (j, *_), word = free(model, 2), key(model, "is")

    def change(mlp: list[torch.Tensor]) -> None:
        mlp[0][j], mlp[1][j], mlp[2][:, j] = 0.5 * word, 0.25 * word, strength * says(model, WRONG)

    return edited(model, 2, change)


def least(model: HookedModel, facts: tuple[Fact, ...], hide: Callable[[float], WeightEdit], high: float) -> float:
    """The smallest strength at which no fact is answered, within 1 percent."""
    low = 0.0
    while high - low > 0.01 * high:
        middle = (low + high) / 2
        with hide(middle).on(model):
            low, high = (low, middle) if share(model, facts) == 0 else (middle, high)
    return high


def removed(model: HookedModel, planted: Planted) -> WeightEdit:
    """The neurons that hold the forget facts are zero."""
    return ConceptAblation(mode="zero").fit(model, planted.concept, planted.sites_of(planted.concept.forget.facts))
