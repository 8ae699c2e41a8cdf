"""Expert shift: does this model send the same facts to other experts than the model it is compared with does?

Source: Zhuang et al. 2024 (UOE / SEUF), https://arxiv.org/abs/2411.18797, who found that plain unlearning moves the
choice of experts away from those that hold the target, and track the overlap |topK before and after| / K, mean over
tokens and layers. Variant: by layer and fact, as 1 - overlap, so that 0 is no shift; beside it the Jensen-Shannon
divergence (bits) of the routers' probabilities, which also moves where nobody else is chosen.
Read it as: 0 for identical checkpoints, 1 when no token keeps any of its experts (or when the routers share nothing).
A shift that begins at a layer was caused at or below it. All tokens of prompt and answer count alike; for the
probabilities of routers that are no softmax see `workbench.expert_gates`.
`notes["sent"]` holds the share of tokens each expert is chosen for, layer by expert, here and in the donor.
Does not show: whether knowledge left; a model can hide answers by sending their tokens elsewhere, with every expert
untouched.
"""

import hashlib
from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from workbench.concepts import FactSet
from workbench.errors import BadInput
from workbench.expert_effects import routings
from workbench.expert_gates import Router, chosen_mask, probabilities, router_of
from workbench.model import HookedModel
from workbench.model_experts import Routing
from workbench.registry import Method
from workbench.trace import Trace

KINDS = ("chosen", "probability")
"""What is kept of every token, layer and expert: whether it is chosen (1 or 0), and the router's probability."""

MEASURES = ("selection", "distribution")
"""1 - |chosen here and there| / K, and the Jensen-Shannon divergence of the probabilities in bits."""


class RoutingSnapshot(Method):
    """Which experts every token is sent to, and how sure the router is: what `ExpertShift` takes from a donor."""

    @torch.no_grad()
    def look(self, model: HookedModel, facts: FactSet) -> Trace:
        """Axes (layer, kind, token, expert); probabilities are NaN where the router has none.

        Raises:
            BadInput: on a dense model, or when the layers have different numbers of experts.
        """
        assert model.experts_per_token  # refuses dense models
        about, encoded = model.about(facts), model.encode(facts.facts)
        counts = sorted({model.anatomy.mixtures[layer].n_experts for layer in model.mixture_layers})
        if len(counts) > 1:
            raise BadInput(f"The layers of {model.name} have {counts} experts; a snapshot needs the same number in all")
        parts, router = [], None
        for batch, routing in routings(model, encoded):
            router = router or router_of(routing.values())
            mask = batch.mask.to(model.device)
            parts.append(torch.stack([_kept(one, router)[:, mask] for one in routing.values()]).float().cpu())
        values = torch.cat(parts, dim=2).numpy()
        tokens = [(fact, i) for fact, one in enumerate(encoded) for i in range(len(one.ids))]
        labels = {
            "layer": tuple(f"L{layer}" for layer in model.mixture_layers),
            "kind": KINDS,
            "token": tuple(f"{fact}.{i}" for fact, i in tokens),
            "expert": tuple(map(str, range(counts[0]))),
        }
        ids = hashlib.sha256(repr([one.ids for one in encoded]).encode()).hexdigest()
        notes = about | {"router": router, "tokens_digest": ids, "experts_per_token": model.experts_per_token}
        return Trace("routing_snapshot", values, ("layer", "kind", "token", "expert"), "share of 1", labels, notes)


def _kept(routing: Routing, router: Router | None) -> Float[Tensor, "kind row pos expert"]:
    chosen = chosen_mask(routing)
    known = torch.full_like(chosen, torch.nan) if router is None else probabilities(routing, router)
    return torch.stack([chosen, known.to(chosen)])


class ExpertShift(Method):
    """How far the choice of experts has moved from another model's, layer by layer."""

    def donor_reading(self) -> RoutingSnapshot:
        """What is read of the model compared against."""
        return RoutingSnapshot()

    def look(self, model: HookedModel, facts: FactSet, donor: Trace) -> Trace:
        """Axes (layer, measure, fact); `donor` is what `RoutingSnapshot` read from the other model on the same facts.

        Raises:
            BadInput: on a dense model, or when the donor read other facts, tokens or experts.
        """
        own = RoutingSnapshot().look(model, facts)
        own = replace(own, values=own.values.astype(donor.values.dtype))  # a donor kept in fewer digits has not moved
        _require_fit(own, donor)
        by_token = np.stack(
            [
                1 - overlap(own.values[:, 0], donor.values[:, 0]),
                jensen_shannon(own.values[:, 1], donor.values[:, 1]),
            ],
            axis=1,
        )
        owner = np.array([int(label.split(".")[0]) for label in own.labels["token"]])
        values = np.stack([by_token[:, :, owner == fact].mean(axis=2) for fact in range(len(facts))], axis=2)
        labels = {"layer": own.labels["layer"], "measure": MEASURES, "fact": facts.labels}
        notes = dict(own.notes) | {
            "options": self.spec(),
            "sent": {"model": sent(own), "donor": sent(donor)},
            "donor": donor.notes.get("model"),
            "donor_identity": donor.notes.get("identity"),
            "axes": {
                "layer": "the router of that block",
                "measure": {
                    "selection": "1 - share of the chosen experts that both models choose, mean over tokens",
                    "distribution": "Jensen-Shannon divergence of the routers' probabilities, bits, mean over tokens",
                },
                "fact": "one sequence each: prompt and answer, all tokens",
            },
        }
        return Trace("expert_shift", values, ("layer", "measure", "fact"), "shift (0 is none, 1 is all)", labels, notes)


def sent(routing: Trace) -> list[list[float]]:
    """Share of the tokens that each expert is chosen for, layer by expert; a row sums to the experts a token gets."""
    shares: list[list[float]] = routing.values[:, 0].mean(axis=1, dtype=float).round(6).tolist()
    return shares


def overlap(here: np.ndarray, there: np.ndarray) -> np.ndarray:
    """|chosen here and there| / K along the last axis, of arrays of 0 and 1."""
    here, there = here.astype(np.float64), there.astype(np.float64)
    return np.asarray((here * there).sum(axis=-1) / here.sum(axis=-1))


def jensen_shannon(here: np.ndarray, there: np.ndarray) -> np.ndarray:
    """Jensen-Shannon divergence along the last axis in bits: 0 for equal distributions, 1 for disjoint ones."""
    here, there = here.astype(np.float64), there.astype(np.float64)
    middle = (here + there) / 2
    found = (_relative(here, middle) + _relative(there, middle)) / 2
    return np.asarray(np.maximum(found, 0))  # rounding can leave -1e-17


def _relative(p: np.ndarray, q: np.ndarray) -> np.ndarray:
    """Kullback-Leibler divergence in bits, where q is positive wherever p is; NaN where p is."""
    ratio = np.divide(p, q, out=np.ones_like(p), where=q > 0)
    return np.asarray((p * np.log2(np.where(ratio > 0, ratio, 1.0))).sum(axis=-1))


def _require_fit(own: Trace, donor: Trace) -> None:
    same = ("facts_digest", "tokens_digest", "experts_per_token")
    fits = (
        donor.name == own.name
        and donor.values.shape == own.values.shape
        and donor.labels["layer"] == own.labels["layer"]
    )
    if not fits or any(donor.notes.get(name) != own.notes[name] for name in same):
        raise BadInput(
            f"The donor's {donor.name} of {donor.notes.get('model')} ({_sizes(donor.labels)}) does not fit "
            f"{own.notes['model']} ({_sizes(own.labels)}): both models need the same architecture, tokenizer, prompt "
            "and facts. Take it with RoutingSnapshot().look(donor, facts)"
        )


def _sizes(labels: Mapping[str, tuple[str, ...]]) -> str:
    return ", ".join(f"{len(entries)} {axis}s" for axis, entries in labels.items())
