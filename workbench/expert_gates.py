"""What a router says, in one form for all routers: probabilities over experts, and the gate value of each.

Architectures differ in how a router's logits become weights: a softmax over all experts (Mixtral, OLMoE, Qwen,
DeepSeek-V2), over the chosen ones alone (gpt-oss, Granite), or a sigmoid for each (DeepSeek-V3, whose choice moreover
is made with a bias and within groups). Which it is, is read off what the model does: the weights it used are
proportional to exp(logit) or to sigmoid(logit) of the chosen experts. Who is chosen is taken from the model, never
worked out again.
Read it as: `probabilities` sum to 1 over the experts for every router; a sigmoid router's scores are divided by their
sum. For gpt-oss and Granite they are the softmax over all experts, which the model itself never takes.
Does not show: what an expert does with a token; that is its output, not its gate.
"""

from collections.abc import Iterable
from typing import Literal

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from workbench.errors import BadInput
from workbench.model_experts import Routing

Gate = Literal["kept", "full", "renormalised", "used"]
"""What counts as the gate value of an expert; see `gate_values`."""

Router = Literal["softmax", "sigmoid"]
"""What turns logits into scores."""

TOLERANCE = 0.05
"""Relative spread of (weight / score) over the chosen experts up to which they are called proportional; bfloat16
rounds to 0.008."""


def router_of(layers: Iterable[Routing]) -> Router | None:
    """Which function the weights follow, over all layers given; None when it is neither."""
    spreads: dict[Router, list[float]] = {"softmax": [], "sigmoid": []}
    for routing in layers:
        for router, found in spreads.items():
            found.append(_spread(routing, router))
    mean = {router: sum(found) / max(len(found), 1) for router, found in spreads.items()}
    best = min(mean, key=lambda router: mean[router])
    return best if mean[best] < TOLERANCE else None


def _spread(routing: Routing, router: Router) -> float:
    """How far the weights are from proportional to the scores of the chosen experts, mean over tokens."""
    score = _scores(routing, router).gather(-1, routing.chosen.long())
    ratio = routing.weights.to(score) / score.clamp_min(torch.finfo(score.dtype).tiny)
    if ratio.shape[-1] == 1:  # one expert a token: the ratio can only be compared between tokens
        ratio = ratio.flatten()[None]
    high = ratio.amax(dim=-1).clamp_min(torch.finfo(score.dtype).tiny)
    return float(((high - ratio.amin(dim=-1)) / high).mean())


def _scores(routing: Routing, router: Router) -> Float[Tensor, "row pos expert"]:
    logits = routing.logits.to(torch.promote_types(routing.logits.dtype, torch.float32))
    return logits.softmax(dim=-1) if router == "softmax" else logits.sigmoid()


def probabilities(routing: Routing, router: Router) -> Float[Tensor, "row pos expert"]:
    """The router's scores of all experts, as shares of 1."""
    score = _scores(routing, router)
    return score if router == "softmax" else score / score.sum(dim=-1, keepdim=True)


def chosen_mask(routing: Routing) -> Float[Tensor, "row pos expert"]:
    """1 where a token is sent to the expert, else 0."""
    wide = torch.promote_types(routing.logits.dtype, torch.float32)
    return torch.zeros_like(routing.logits, dtype=wide).scatter(-1, routing.chosen.long(), 1.0)


def gate_values(routing: Routing, gate: Gate, router: Router | None) -> Float[Tensor, "row pos expert"]:
    """Gate value of every expert for every token.

    Args:
        routing: what the model did.
        gate: `kept`, the probability where the expert is chosen and 0 elsewhere; `full`, the probability; `used`, what
            the expert's output is multiplied by; `renormalised`, that divided by its sum over the chosen experts.
        router: from `router_of`; not needed for `used` and `renormalised`.

    Raises:
        BadInput: for a probability of a router whose function is not known.
    """
    if gate in ("kept", "full"):
        if router is None:
            raise BadInput(
                "The weights of this router follow neither a softmax nor a sigmoid of its logits, so it has no "
                f"probabilities as gate={gate!r} wants; use gate='used' or gate='renormalised'"
            )
        share = probabilities(routing, router)
        return share * chosen_mask(routing).to(share) if gate == "kept" else share
    empty = chosen_mask(routing) * 0
    weights = routing.weights.to(empty)
    if gate == "renormalised":
        weights = weights / weights.sum(dim=-1, keepdim=True)
    return empty.scatter(-1, routing.chosen.long(), weights)


def token_mean(values: Float[Tensor, "row pos *rest"], mask: Bool[Tensor, "row pos"]) -> Float[Tensor, "row *rest"]:
    """Mean over the tokens of each row; padding does not enter."""
    mask = mask.to(values.device)
    wide = mask.view(*mask.shape, *[1] * (values.ndim - 2))
    return torch.where(wide, values, 0).sum(dim=1) / wide.sum(dim=1)
