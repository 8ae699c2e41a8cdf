"""Every localiser as a function from a question to one score a place, so that all can be held against the truth.

A place is a neuron (`NEURONS`), an MLP layer (`LAYERS`), or an expert (`EXPERTS`); higher means "rather here". What a
localiser does not score stays NaN. `contrast` is forget minus near throughout.
"""

import importlib.util
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from probes.causal_trace import CausalTrace
from probes.concept_vectors import ConceptVectors
from probes.expert_attribution import ExpertAttribution
from workbench.attribution import neuron_effects
from workbench.concepts import Fact, FactSet
from workbench.model import HookedModel
from workbench.neuron_attribution import firing, gathered, located, path_effects, selectivity
from workbench.scoring import chunks, score_batch
from workbench.sites import Site
from workbench.trace import Trace

Scores = Mapping[Site, Float[np.ndarray, " neuron"]]
"""The whole site of an MLP or expert -> one score a neuron."""


@dataclass(frozen=True)
class Asked:
    """What a localiser is given."""

    model: HookedModel
    forget: FactSet
    """The facts whose place is looked for."""
    near: FactSet
    """Neighbours that must stay."""
    others: tuple[FactSet, ...] = ()
    """More facts that must stay."""
    peers: FactSet | None = None
    """Facts whose subjects may stand in for those of `forget`, when it is too small to have any."""
    seed: int = 0
    """Of the random localiser."""


Neurons = Callable[[Asked], Mapping[Site, Tensor]]


def random_scores(asked: Asked) -> dict[Site, Tensor]:
    """Chance."""
    generator = torch.Generator().manual_seed(asked.seed)
    return {site: torch.rand(len(rows), generator=generator) for site, rows in asked.model.mlps()}


def weight_magnitude(asked: Asked) -> dict[Site, Tensor]:
    """Length of the value vector, whatever the facts."""
    return {site: rows.detach().norm(dim=1) for site, rows in asked.model.mlps()}


@dataclass(frozen=True)
class Vectors:
    """`probes.concept_vectors` with one of its scores."""

    score: str

    def __call__(self, asked: Asked) -> dict[Site, Tensor]:
        """Its ranking, as scores."""
        probe = ConceptVectors(score=self.score, keep=10**9, describe=0)
        return _by_mlp(asked.model, probe.look(asked.model, asked.forget))


@dataclass(frozen=True)
class Contrast:
    """A localiser's score of the forget facts, less its score of the near facts."""

    of: Callable[[HookedModel, Sequence[Fact]], Mapping[Site, Tensor]]

    def __call__(self, asked: Asked) -> dict[Site, Tensor]:
        """The difference."""
        here, there = self.of(asked.model, asked.forget.facts), self.of(asked.model, asked.near.facts)
        return {site: values - there[site] for site, values in here.items()}


@dataclass(frozen=True)
class Raw:
    """A localiser's score of the forget facts."""

    of: Callable[[HookedModel, Sequence[Fact]], Mapping[Site, Tensor]]
    absolute: bool = False

    def __call__(self, asked: Asked) -> dict[Site, Tensor]:
        """The score, or its size."""
        found = self.of(asked.model, asked.forget.facts)
        return {site: values.abs() if self.absolute else values for site, values in found.items()}


def firing_times_norm(model: HookedModel, facts: Sequence[Fact]) -> dict[Site, Tensor]:
    """Largest coefficient on each fact times the length of the value vector."""
    norms = {site: rows.detach().norm(dim=1) for site, rows in model.mlps()}
    return {site: values * norms[site] for site, values in firing(model, facts).items()}


@dataclass(frozen=True)
class Saliency:
    """Gradient of the answers' log-probability on the value vector: its size, or its square summed fact by fact.

    The simple forms of SalUn's weight saliency (Fan et al. 2024) and of SSD's diagonal Fisher (Foster et al. 2024).
    """

    squared: bool

    def __call__(self, model: HookedModel, facts: Sequence[Fact]) -> dict[Site, Tensor]:
        """One number a neuron."""
        stores = {store.name: store for _, store in model.down_projections()}
        total = {name: torch.zeros_like(store.weight) for name, store in stores.items()}
        before = {name: store.weight.requires_grad for name, store in stores.items()}
        for store in stores.values():
            store.weight.requires_grad_(True)
        try:
            for batch, targets in chunks(model.encode(facts), 1 if self.squared else 128):
                objective = score_batch(model, batch, targets, grad=True).logprob.sum()
                gradients = torch.autograd.grad(objective, [store.weight for store in stores.values()])
                for name, gradient in zip(stores, gradients, strict=True):
                    total[name] += gradient.square() if self.squared else gradient
        finally:
            for name, store in stores.items():
                store.weight.requires_grad_(before[name])
        size = {name: stores[name].as_rows(tensor).abs().sum(dim=-1) for name, tensor in total.items()}
        return {
            site: size[store.name] if site.expert is None else size[store.name][site.expert]
            for site, store in model.down_projections()
        }


def _others(asked: Asked) -> list[Sequence[Fact]]:
    return [other.facts for other in (asked.near, *asked.others) if len(other)]


def selective(asked: Asked) -> dict[Site, Tensor]:
    """How much more a neuron fires for these facts than for any others."""
    return selectivity(asked.model, asked.forget.facts, _others(asked))


def selective_place(asked: Asked) -> dict[Site, Tensor]:
    """The cube of the same, weighed by the MLP's share."""
    return gathered({site: ratio**3 for site, ratio in selective(asked).items()})


@dataclass(frozen=True)
class Located:
    """`workbench.neuron_attribution.located`."""

    together: bool

    def __call__(self, asked: Asked) -> dict[Site, Tensor]:
        """Its scores."""
        return located(asked.model, asked.forget.facts, _others(asked), together=self.together)


def attribution_patching(asked: Asked) -> dict[Site, Tensor]:
    """`probes.attribution_patching` over neurons; imported late, for it is younger than the rest."""
    from probes.attribution_patching import AttributionPatching

    probe = AttributionPatching(parts=("mlp_act",), neurons=10**9, verify=0, max_facts=MOST, unanswered="trace")
    return _by_mlp(asked.model, _of_facts(asked, probe.look))


NEURONS: dict[str, Neurons] = {
    "random": random_scores,
    "weight magnitude": weight_magnitude,
    "concept_vectors standardised": Vectors("standardised"),
    "concept_vectors average": Vectors("average"),
    "activation x norm": Raw(firing_times_norm),
    "activation x norm, contrast": Contrast(firing_times_norm),
    "weight saliency": Raw(Saliency(squared=False)),
    "Fisher": Raw(Saliency(squared=True)),
    "gradient x weight (concept_vectors effect)": Raw(neuron_effects),
    "gradient x weight, contrast": Contrast(neuron_effects),
    "gradient x weight, absolute": Raw(neuron_effects, absolute=True),
    "integrated gradients": Raw(path_effects),
    "integrated gradients, contrast": Contrast(path_effects),
    "selectivity": selective,
    "selectivity, gathered": selective_place,
    "located, not gathered": Located(together=False),
    "located": Located(together=True),
}
"""Localisers that score every neuron."""

if importlib.util.find_spec("probes.attribution_patching"):
    NEURONS["attribution_patching"] = attribution_patching

MOST, PEERS = 20, 4
"""Facts that a trace reads (each costs a pass a layer and token), and facts that only lend it their subjects."""


@dataclass(frozen=True)
class Traced:
    """`probes.causal_trace` of the MLPs; a layer's score is its largest mean effect over the roles of tokens."""

    corruption: str
    contrast: bool

    def __call__(self, asked: Asked) -> Float[np.ndarray, " layer"]:
        """One number a layer."""
        probe = CausalTrace(
            parts=("mlp_out",), corruption=self.corruption, samples=2, max_facts=MOST, unanswered="trace"
        )
        here = _of_facts(asked, probe.look).mean("fact").values
        if not self.contrast:
            return _largest(here)
        near = asked.near.take(list(range(0, len(asked.near), max(1, len(asked.near) // PEERS))), "some")
        near = asked.near if asked.peers is None else near
        return _largest(here - probe.look(asked.model, near).mean("fact").values)


def _largest(values: Float[np.ndarray, "layer role"]) -> Float[np.ndarray, " layer"]:
    """The largest entry of each row that was read at all; NaN where none was."""
    found = np.nan_to_num(values, nan=-np.inf).max(axis=1)
    return np.where(np.isfinite(found), found, np.nan)


LAYERS: dict[str, Callable[[Asked], Float[np.ndarray, " layer"]]] = {
    "causal_trace swapped": Traced("replace", contrast=False),
    "causal_trace swapped, contrast": Traced("replace", contrast=True),
    "causal_trace noise": Traced("noise", contrast=False),
    "causal_trace noise, contrast": Traced("noise", contrast=True),
}
"""Localisers that score every MLP."""


@dataclass(frozen=True)
class Experts:
    """`probes.expert_attribution` with one of its scores, forget alone or less near."""

    score: str
    contrast: bool = False

    def __call__(self, asked: Asked) -> dict[Site, float]:
        """One number an expert."""
        probe = ExpertAttribution(score=self.score, contrast="near" if self.contrast else "none")
        trace = probe.look(asked.model, asked.forget, near=asked.near if self.contrast else None)
        return {
            Site.parse(label): float(v) for label, v in zip(trace.labels["site"], trace.scores("site"), strict=True)
        }


def random_expert(asked: Asked) -> dict[Site, float]:
    """Chance."""
    rng = np.random.default_rng(asked.seed)
    return {Site(s.layer, "expert", s.expert): float(rng.random()) for s, _ in asked.model.mlps()}


EXPERTS: dict[str, Callable[[Asked], dict[Site, float]]] = {
    "random": random_expert,
    **{
        f"expert_attribution {score}{', contrast' if contrast else ''}": Experts(score, contrast)
        for score in ("affinity", "frequency", "contribution", "gradient", "knockout")
        for contrast in (False, True)
    },
}
"""Localisers that score every expert."""


def _by_mlp(model: HookedModel, trace: Trace) -> dict[Site, Tensor]:
    """A trace over neurons as one tensor an MLP; what it leaves out is NaN."""
    found = {site: torch.full((len(rows),), torch.nan) for site, rows in model.mlps()}
    for label, value in zip(trace.labels["site"], trace.scores("site"), strict=True):
        site = Site.parse(label)
        found[site.whole][site.index] = float(value)
    return found


def _of_facts(asked: Asked, look: Callable[[HookedModel, FactSet], Trace]) -> Trace:
    """A reading that needs stand-in subjects, on few facts: the peers are read along and left out again."""
    if asked.peers is None:
        return look(asked.model, asked.forget)
    peers = [fact for fact in asked.peers if fact not in asked.forget.facts][:PEERS]
    both = asked.forget.model_copy(update={"facts": (*asked.forget.facts, *peers)})
    trace = look(asked.model, both)
    axis, count = trace.axis("fact"), len(asked.forget)
    labels = {**trace.labels, "fact": trace.labels["fact"][:count]}
    values = np.take(trace.values, range(count), axis=axis)
    return Trace(trace.name, values, trace.axes, trace.units, labels, trace.notes)
