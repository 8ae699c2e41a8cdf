"""Which neurons hold some facts: what they add to the answers, weighed by how much they fire for these facts only.

Three readings of every neuron, of every layer and of every expert:

    path_effects    integrated gradients: what the answers' log-probability owes to the neuron's value vector
    selectivity     how much more the neuron fires for these facts than for any other set of facts
    located         both: the size of the effect times a power of the selectivity, weighed by its MLP's share

`path_effects` follows the value vectors of all neurons together from zero to what they are, so the effects of all
neurons sum to what the MLPs together add to the answers (completeness; tested). Source: Sundararajan et al. 2017,
https://arxiv.org/abs/1703.01365; Dai et al. 2022 (knowledge neurons), https://arxiv.org/abs/2104.08696, scale one
neuron's coefficient at a time and integrate the probability; here all are scaled at once, which costs a few passes and
not as many as there are neurons, and the log-probability is read, which multi-token answers sum.

Read it as: `located` ranks first what a fact set uses and nothing else does. It was chosen on planted blocks of seed 0
of the embedded world (`bench/localisation.py` scores it on other seeds). Does not show: knowledge that lies in neurons
which also serve other facts, for those are ranked down on purpose; nor, with `together`, knowledge that is spread over
layers: it expects one place, as planted facts have. Confirm by ablating.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

import torch
from jaxtyping import Float
from torch import Tensor

from workbench.changes import kept
from workbench.concepts import Fact
from workbench.errors import BadInput
from workbench.model import HookedModel
from workbench.scoring import chunks, score_batch
from workbench.sites import Site
from workbench.value_vectors import ValueVectors

FLOOR = 0.01
"""What is added to the firing on other facts before dividing by it, as a share of the layer's mean firing."""

Effects = Mapping[Site, Float[Tensor, " neuron"]]
"""The neurons of every MLP and every expert, as `workbench.attribution.neuron_effects` gives them."""


def path_effects(model: HookedModel, facts: Sequence[Fact], steps: int = 5) -> dict[Site, Float[Tensor, " neuron"]]:
    """Integrated gradients of the answers' log-probability over all value vectors, from zero to what they are.

    Args:
        model: the model; its weights hold the same bits afterwards.
        facts: the answers that are explained.
        steps: points of the path (midpoint rule); each is a forward and a backward pass.

    Returns:
        Nats per fact.

    Raises:
        BadInput: without facts, or for fewer than one step.
    """
    if not facts or steps < 1:
        raise BadInput(f"path_effects got {len(facts)} facts and steps={steps}; it needs at least one of each")
    stores = {store.name: store for _, store in model.down_projections()}
    total = {name: torch.zeros_like(store.vectors[..., 0], dtype=torch.float32) for name, store in stores.items()}
    with kept(model, list(stores)) as whole, _with_gradients(stores):
        for share in ((step + 0.5) / steps for step in range(steps)):
            with torch.no_grad():
                for name, store in stores.items():
                    store.weight.copy_(whole[name] * share)
            for name, gradient in _gradients(model, facts, stores).items():
                store = stores[name]
                total[name] += (store.as_rows(gradient) * store.as_rows(whole[name])).sum(dim=-1).float()
    mean = {name: layer / (len(facts) * steps) for name, layer in total.items()}
    return {
        site: mean[store.name] if site.expert is None else mean[store.name][site.expert]
        for site, store in model.down_projections()
    }


@contextmanager
def _with_gradients(stores: Mapping[str, ValueVectors]) -> Iterator[None]:
    before = {name: store.weight.requires_grad for name, store in stores.items()}
    try:
        for store in stores.values():
            store.weight.requires_grad_(True)
        yield
    finally:
        for name, store in stores.items():
            store.weight.requires_grad_(before[name])


def _gradients(model: HookedModel, facts: Sequence[Fact], stores: Mapping[str, ValueVectors]) -> dict[str, Tensor]:
    weights = [store.weight for store in stores.values()]
    found = [torch.zeros_like(weight) for weight in weights]
    for batch, targets in chunks(model.encode(facts)):
        objective = score_batch(model, batch, targets, grad=True).logprob.sum()
        found = [old + new for old, new in zip(found, torch.autograd.grad(objective, weights), strict=True)]
    return dict(zip(stores, found, strict=True))


@torch.no_grad()
def firing(model: HookedModel, facts: Sequence[Fact]) -> dict[Site, Float[Tensor, " neuron"]]:
    """Largest coefficient of every neuron on a fact's tokens, either sign; mean over the facts.

    Raises:
        BadInput: without facts.
    """
    if not facts:
        raise BadInput("The fact set is empty: there is nothing to read. Give at least one fact")
    sites = [site for site, _ in model.mlps()]
    total: dict[Site, Tensor] = {}
    for batch, _ in chunks(model.encode(facts)):
        acts = model.run(batch, read=sites, logits=False).acts
        for site in sites:
            inside = batch.mask.to(acts[site].device)[..., None]
            most = (acts[site].abs() * inside).amax(dim=1).sum(dim=0).float()
            total[site] = total[site] + most if site in total else most
    return {site: sums / len(facts) for site, sums in total.items()}


def selectivity(
    model: HookedModel, facts: Sequence[Fact], others: Sequence[Sequence[Fact]]
) -> dict[Site, Float[Tensor, " neuron"]]:
    """Firing on these facts over the largest firing on any other set (near facts, unrelated ones, ...).

    Raises:
        BadInput: without facts, or without another set to compare with.
    """
    if not others:
        raise BadInput("selectivity compares with other facts, but got none; give the near facts at least")
    here, there = firing(model, facts), [firing(model, other) for other in others]
    found = {}
    for site, own in here.items():
        most = torch.stack([other[site] for other in there]).amax(dim=0)
        floor = FLOOR * torch.stack([own, most]).mean()
        found[site] = own / (most + floor + torch.finfo(own.dtype).tiny)
    return found


def located(
    model: HookedModel,
    facts: Sequence[Fact],
    others: Sequence[Sequence[Fact]],
    steps: int = 5,
    power: float = 3.0,
    together: bool = True,
) -> dict[Site, Float[Tensor, " neuron"]]:
    """Size of `path_effects` times a power of `selectivity`: what these answers need and no other facts use.

    Args:
        model: the model.
        facts: what is looked for.
        others: sets of facts that are to stay; the nearer, the more they tell.
        steps: as in `path_effects`.
        power: how much more selectivity counts than effect.
        together: expect the facts to lie together: weigh a neuron by its MLP's (or expert's) share of all scores.

    Raises:
        BadInput: when a set is empty.
    """
    effects, ratio = path_effects(model, facts, steps), selectivity(model, facts, others)
    found = {site: effect.abs() * ratio[site].to(effect.device) ** power for site, effect in effects.items()}
    return gathered(found) if together else found


def gathered(scores: Effects) -> dict[Site, Float[Tensor, " neuron"]]:
    """Scores (at least 0), each times its MLP's (or expert's) share of them all: what scores together rises."""
    share = {site: values.sum() for site, values in scores.items()}
    whole = torch.stack([part.cpu() for part in share.values()]).sum().clamp(min=torch.finfo(torch.float32).tiny)
    return {site: values * (share[site] / whole.to(values.device)) for site, values in scores.items()}
