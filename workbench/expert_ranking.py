"""Experts of all layers in one order, best first: what an intervention goes by that is not told where to act.

Source: the published order of single-expert unlearning is by affinity (Zhuang et al. 2024,
https://arxiv.org/abs/2411.18797), which is where the text is sent; the size of the effect on the answers is offered
beside it. The scores are those of `probes.expert_attribution`, mean over facts. Effects are ordered by size: an expert
that speaks loudly against an answer has much to do with it, and the last must be the one that has least.
Does not show: that the first expert holds the facts; train it and a random one, and compare.
"""

from collections.abc import Mapping, Sequence
from typing import Literal

from jaxtyping import Float
from torch import Tensor

from workbench.concepts import Fact
from workbench.errors import BadInput
from workbench.expert_effects import affinities, expert_sites, gradient_effects, knockout_effects, routings
from workbench.expert_gates import Router, router_of
from workbench.model import HookedModel
from workbench.sites import Site

RankedBy = Literal["gradient", "knockout", "affinity"]
"""Size of the first-order effect on the answer's logit, of the effect of a knock-out, or share of the routing."""


def ranking(model: HookedModel, facts: Sequence[Fact], by: RankedBy) -> dict[Site, float]:
    """Every routed expert with its score, best first; equal ones in reading order.

    Raises:
        BadInput: on a dense model, or one whose routing cannot be read.
    """
    values = _scores(model, facts, by).mean(dim=1).abs()
    sites = expert_sites(model)
    return {sites[i]: float(values[i]) for i in values.argsort(descending=True, stable=True).tolist()}


def _scores(model: HookedModel, facts: Sequence[Fact], by: RankedBy) -> Float[Tensor, "site fact"]:
    if by == "gradient":
        return gradient_effects(model, facts)
    if by == "knockout":
        return knockout_effects(model, facts)
    known = measured_router(model, facts) is not None  # else the router has no probabilities; its weights stand in
    return affinities(model, facts, "kept" if known else "used")[0]


def measured_router(model: HookedModel, facts: Sequence[Fact]) -> Router | None:
    """What turns router logits into scores, read off the weights that the model uses on these facts; None: neither.

    Raises:
        BadInput: on a dense model, or one whose routing cannot be read.
    """
    assert model.experts_per_token  # refuses dense models
    return router_of(one for _, routing in routings(model, model.encode(facts)) for one in routing.values())


def at_rank(order: Mapping[Site, float], rank: int) -> Site:
    """The expert at a place of a ranking: 0 the best, -1 the last.

    Raises:
        BadInput: for a place that the ranking does not have.
    """
    sites = list(order)
    if not -len(sites) <= rank < len(sites):
        raise BadInput(f"rank={rank} is not in a ranking of {len(sites)} experts: 0 is the best, -1 the last")
    return sites[rank]


def rank_of(order: Mapping[Site, float], site: Site) -> int:
    """Place of an expert in a ranking, from 0."""
    return list(order).index(site)
