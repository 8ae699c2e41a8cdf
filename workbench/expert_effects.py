"""What experts have to do with facts: what the answers would lose without one, what it adds, and what is sent to it.

A knock-out multiplies the expert's routing weight by 0 (`workbench.expert_switch`): no other expert is chosen in its
place and the others' weights are not renormalised. The effect is the answer's logit (sum over its tokens, each less
the mean logit) of the intact model minus that without the expert. To first order it is the derivative by that factor,
activation x gradient at the expert's output, for all experts and facts in one backward pass.
Source: the effects are ordinary ablation and gradient x activation (Simonyan et al. 2013,
https://arxiv.org/abs/1312.6034); on single neurons `workbench.attribution` does the same.
Read it as: positive means that the expert speaks for the answer.
Does not show: what experts do together; two that can replace each other both read about 0.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from workbench.concepts import Fact
from workbench.expert_gates import Gate, Router, chosen_mask, gate_values, router_of, token_mean
from workbench.expert_switch import can_start_late, switched
from workbench.hooks import Rewrite
from workbench.model import HookedModel
from workbench.model_experts import Routing
from workbench.model_run import Start
from workbench.scoring import CHUNK, batch_of, chunks, score_batch, sum_by_row, token_scores
from workbench.sites import Site
from workbench.tokens import Batch, Encoded

Progress = Callable[[int, int], None]
"""Called with parts done and parts in all."""

BACKWARD_ROWS = 32
"""Facts a backward pass, which keeps what every layer has computed."""

Effects = Float[Tensor, "site fact"]
"""One row an expert, layer by layer in order; on the CPU."""


def expert_sites(model: HookedModel) -> tuple[Site, ...]:
    """Every routed expert, layer by layer.

    Raises:
        BadInput: on a dense model.
    """
    assert model.experts_per_token  # refuses dense models
    return tuple(
        Site(layer, "expert", e)
        for layer in model.mixture_layers
        for e in range(model.anatomy.mixtures[layer].n_experts)
    )


def gradient_effects(model: HookedModel, facts: Sequence[Fact]) -> Effects:
    """First-order effect of every expert on every answer's logit."""
    parts = []
    for batch, targets in chunks(model.encode(facts), BACKWARD_ROWS):
        rows = len(batch.ids)
        factors = {
            layer: torch.ones(rows, model.anatomy.mixtures[layer].n_experts, requires_grad=True)
            for layer in model.mixture_layers
        }
        with torch.enable_grad(), switched(model, factors):
            objective = score_batch(model, batch, targets, grad=True).logit.sum()
            found = torch.autograd.grad(objective, list(factors.values()))
        parts.append(torch.cat([gradient.T for gradient in found]))
    return torch.cat(parts, dim=1)


@torch.no_grad()
def knockout_effects(model: HookedModel, facts: Sequence[Fact], progress: Progress | None = None) -> Effects:
    """What every answer's logit loses without each expert; 0 where no token of the fact was sent there."""
    encoded = model.encode(facts)
    starts = range(0, len(encoded), CHUNK)
    parts, done, total = [], 0, len(starts) * len(model.mixture_layers)
    for start in starts:
        intact = _Intact.of(model, encoded[start : start + CHUNK])
        layers = []
        for layer in model.mixture_layers:
            layers.append(_without(model, intact, layer))
            done += 1
            if progress:
                progress(done, total)
        parts.append(torch.cat(layers))
    return torch.cat(parts, dim=1)


@dataclass(frozen=True)
class _Intact:
    """Some facts in the model as it is."""

    encoded: Sequence[Encoded]
    batch: Batch
    logit: Float[Tensor, " row"]
    """Of the answers."""
    routing: dict[int, Routing]
    entering: dict[int, Float[Tensor, "row pos d_model"]]
    """What enters the mixture layers; empty where passes cannot begin in the middle."""

    @classmethod
    def of(cls, model: HookedModel, encoded: Sequence[Encoded]) -> "_Intact":
        batch, targets = batch_of(encoded)
        sites = [Site(layer, "resid_pre") for layer in model.mixture_layers if layer] if can_start_late(model) else []
        acts = model.run(batch, read=sites, logits=False).acts
        entering = {site.layer: value for site, value in acts.items() if site.layer is not None}
        logit = score_batch(model, batch, targets).logit.cpu()
        return cls(encoded, batch, logit, model.routing(batch), entering)

    def cells(self, layer: int) -> list[tuple[int, int]]:
        """Row and expert wherever a token of the row is sent to the expert."""
        chosen, mask = self.routing[layer].chosen.cpu(), self.batch.mask
        return [(row, e) for row in range(len(chosen)) for e in chosen[row][mask[row]].unique().tolist()]


def _without(model: HookedModel, intact: _Intact, layer: int) -> Float[Tensor, "expert row"]:
    """Loss of every answer without each expert of a layer."""
    experts = model.anatomy.mixtures[layer].n_experts
    lost = torch.zeros(experts, len(intact.encoded))
    cells = intact.cells(layer)
    for first in range(0, len(cells), CHUNK):
        rows, out = torch.tensor(cells[first : first + CHUNK]).T
        batch, targets = batch_of([intact.encoded[row] for row in rows.tolist()])
        factor = torch.ones(len(rows), experts).scatter(1, out[:, None], 0.0)
        resid = intact.entering.get(layer)
        begin = None if resid is None else Start(layer, resid[rows.to(resid.device), : batch.ids.shape[1]])
        last = Site(model.n_layers - 1, "resid_post")
        with switched(model, {layer: factor}):
            states = model.run(batch, read=[last], logits=False, start=begin).acts[last]
        logits = model.decode(states[targets.row, targets.position]).float()
        logit = sum_by_row(token_scores(logits, targets.token)[2], targets.row, len(rows)).cpu()
        lost[out, rows] = intact.logit[rows] - logit
    return lost


@dataclass(frozen=True, eq=False)
class _Norms:
    """Notes down, for each token, the length of what an expert gives before the routing weight; changes nothing."""

    found: dict[tuple[int, int], Float[Tensor, "row pos"]]
    key: tuple[int, int]
    sent: Bool[Tensor, " token"]
    vectors: Float[Tensor, "neuron d_model"]
    bias: Float[Tensor, " d_model"] | None

    def __call__(self, value: Tensor) -> Tensor:
        flat = value.detach().flatten(0, 1)
        out = flat[self.sent] @ self.vectors.detach()  # tokens that are not sent need no product
        norm = (out if self.bias is None else out + self.bias.detach()).float().norm(dim=-1)
        self.found[self.key] = norm.new_zeros(len(flat)).masked_scatter(self.sent, norm).view(value.shape[:2])
        return value


@torch.no_grad()
def contribution_norms(model: HookedModel, facts: Sequence[Fact]) -> Effects:
    """Length of routing weight x expert output, mean over the tokens of each fact; 0 where a token is not sent.

    Raises:
        BadInput: when the value vectors of some layer are not understood.
    """
    stores = {layer: model.value_vectors(layer) for layer in model.mixture_layers}
    pairs = [(layer, e) for layer in stores for e in range(model.anatomy.mixtures[layer].n_experts)]
    parts = []
    for batch, routing in routings(model, model.encode(facts)):
        weights = {layer: gate_values(one, "used", None) for layer, one in routing.items()}
        sent = {layer: chosen_mask(one).bool() for layer, one in routing.items()}
        found: dict[tuple[int, int], Tensor] = {}
        notes: dict[Site, Rewrite] = {}
        for layer, e in pairs:
            name = stores[layer].bias
            bias = None if name is None else model.parameter(name)[e]
            vectors = stores[layer].vectors[e]
            notes[Site(layer, "mlp_act", None, e)] = _Norms(
                found, (layer, e), sent[layer][..., e].flatten(), vectors, bias
            )
        model.run(batch, rewrite=notes, logits=False)
        columns = [
            token_mean(weights[layer][..., e] * found[layer, e].to(weights[layer]), batch.mask) for layer, e in pairs
        ]
        parts.append(torch.stack(columns).float().cpu())
    return torch.cat(parts, dim=1)


@torch.no_grad()
def affinities(model: HookedModel, facts: Sequence[Fact], gate: Gate = "kept") -> tuple[Effects, Router | None]:
    """Gate value of every expert, mean over the tokens of each fact, and what kind of router was found.

    Raises:
        BadInput: for a probability (`kept`, `full`) of a router whose function is not known.
    """
    parts, router = [], None
    for batch, routing in routings(model, model.encode(facts)):
        router = router or router_of(routing.values())
        values = [token_mean(gate_values(one, gate, router), batch.mask).T.cpu() for one in routing.values()]
        parts.append(torch.cat(values))
    return torch.cat(parts, dim=1), router


def routings(model: HookedModel, encoded: Sequence[Encoded]) -> Iterator[tuple[Batch, dict[int, Routing]]]:
    """The routing of every mixture layer, one batch after another."""
    for batch, _ in chunks(encoded):
        yield batch, model.routing(batch)
