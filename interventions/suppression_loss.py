"""What CRISP chooses and makes smaller: salient features of a sparse autoencoder, and their activations.

Source: CRISP, Ashuach et al. 2025, https://arxiv.org/abs/2508.13650. Pure functions of counts and activations.
Does not show: whether a feature stands for the concept; only that it fires there and hardly elsewhere.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

CANDIDATES = 10_000
"""Features that fire most often more on the target than elsewhere, of which the ratio then chooses."""


@dataclass(frozen=True)
class Firing:
    """What every feature of an autoencoder does on some tokens."""

    count: Float[Tensor, " feature"]
    """At how many tokens it is active."""
    total: Float[Tensor, " feature"]
    """Sum of its activations."""
    tokens: int
    """How many tokens there are."""


def salient(target: Firing, benign: Firing, keep: int, ratio: float, *, rescale: bool = True) -> list[int]:
    """Features that fire more often, and much more strongly, on the target; the greatest difference of counts first.

    Args:
        target: on what is to be forgotten.
        benign: on what is to stay.
        keep: how many at most.
        ratio: least sum of activations on the target, over that on the benign tokens plus one.
        rescale: take the benign counts and sums as if there were as many tokens as of the target; the paper has
            sets of one size, where this changes nothing.
    """
    scale = target.tokens / benign.tokens if rescale and benign.tokens else 1.0
    more = target.count - scale * benign.count
    order = more.argsort(descending=True, stable=True)[:CANDIDATES]
    passed = (target.total >= ratio * (scale * benign.total + 1)) & (more > 0)
    return order[passed[order]][:keep].tolist()


def suppression_loss(
    before: Float[Tensor, "token feature"],
    level: Float[Tensor, " token"],
    fired: Bool[Tensor, "token feature"],
    on: Bool[Tensor, "token feature"],
    floor: Float[Tensor, " feature"],
    strength: float,
) -> Float[Tensor, ""]:
    """Mean activation of the chosen features, over those tokens at which they are active; 0 when none is.

    Where a feature fired in the original model, `strength` times the token's mean pre-activation (its absolute value)
    is added, so that a feature keeps a gradient after it has gone off: it is to go well below its threshold. The mean
    has a gradient, too, as in the published code: held fixed, it grows as features sink, and training runs away.

    Args:
        before: pre-activations of the chosen features.
        level: mean pre-activation of all features.
        fired: where the original model had the feature active.
        on: where the autoencoder has it active now.
        floor: what a pre-activation must exceed.
        strength: the paper's alpha.
    """
    raised = before + fired * (strength * level).abs()[:, None]
    active = (raised > floor) & (fired | on)
    return torch.where(active, raised, torch.zeros_like(raised)).sum() / active.sum().clamp_min(1)
