"""`sae_share`: fires on a text when chosen features of a sparse autoencoder are active on a large share of its tokens.

Source: Dynamic SAE Guardrails, Muhamed et al. 2025, https://arxiv.org/abs/2504.08192: rho is the share of a sequence's
tokens at which at least one chosen feature is active; the guard acts when rho exceeds tau. Departure: `window` takes
the largest share in any so many tokens in a row, because the published share falls when a harmless text stands before
or behind the question.
Read it as: `share_so_far(value, mask, **found.encoding)[row, pos]` is rho of the row's text up to that token.
Does not show: whether the text is about the concept; a feature that misfires counts like any other.
"""

from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from workbench.sae_features import activations

Value = Float[Tensor, "row pos width"]
Mask = Bool[Tensor, "row pos"]


def sae_share(value: Value, mask: Mask, *, tau: float, **how: Any) -> Bool[Tensor, "row pos"]:
    """Whether the share of the text up to each token exceeds tau; the rest is `share_so_far`'s."""
    return share_so_far(value, mask, **how) > tau


def share_so_far(
    value: Value, mask: Mask, *, lead: int = 0, count_lead: bool = False, window: int = 0, **encoding: Any
) -> Float[Tensor, "row pos"]:
    """Share of tokens at which any feature is active, of the text up to each token.

    Args:
        value: what the SAE reads.
        mask: where there is a token.
        lead: first tokens of a row, at which no activity counts.
        count_lead: whether they count as tokens even so.
        window: not the share in all of the text but the largest in so many tokens in a row; a text that is shorter is
            judged whole. 0 for all of it.
        encoding: features, as `workbench.sae_features.activations` takes them.
    """
    behind = mask.clone()
    behind[:, :lead] = False
    active = (activations(value, **encoding) > 0).any(dim=-1) & behind
    tokens = (mask if count_lead else behind).long().cumsum(dim=1)
    fired = active.long().cumsum(dim=1)
    share = fired.to(value.dtype) / tokens.clamp(min=1)
    if not window or tokens.shape[1] <= window:
        return share
    before = torch.nn.functional.pad(fired, (window, 0))[:, : fired.shape[1]]
    full = (fired - before).to(value.dtype) / window
    return torch.where(tokens >= window, full.masked_fill(tokens < window, -1).cummax(dim=1).values, share)
