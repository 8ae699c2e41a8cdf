"""What RMU makes smaller: the distance of hidden states from where they should be, as pure functions.

Source: the WMDP benchmark's RMU, Li et al. 2024, https://arxiv.org/abs/2403.03218. A state's loss is its squared
distance from the target, averaged over the width and then over tokens; the ways to average over tokens differ:

    default            the tokens of the mask, each counting the same
    "wmdp"             the code published with the paper: every position, padding and special tokens too
    "open_unlearning"  OpenUnlearning's: positions whose own label counts (not those that predict them); its sums and
                       counts are of other shapes, so that it averages sum_i / count_j over all pairs (i, j) of rows

Does not show: whether an answer changed; a state may move without the answer.
"""

from typing import Literal

import torch
from jaxtyping import Bool, Float
from torch import Tensor

Published = Literal["wmdp", "open_unlearning"]


def control_vector(width: int, seed: int) -> Float[Tensor, " width"]:
    """A random unit vector: each entry drawn evenly from 0 to 1 (so none is negative), then scaled to length 1."""
    drawn = torch.rand(width, generator=torch.Generator().manual_seed(seed))
    return drawn / drawn.norm()


def state_loss(
    state: Float[Tensor, "row pos width"],
    target: Float[Tensor, "#row #pos width"],
    mask: Bool[Tensor, "row pos"],
    published: Published | None = None,
) -> Float[Tensor, ""]:
    """Mean squared distance of states from their targets.

    Args:
        state: hidden states, in any precision; the loss is at least float32.
        target: where they should be; one for all, or one a token.
        mask: which tokens count; for `open_unlearning` those with a label of their own. `wmdp` does not look at it.
        published: how to average over tokens, see above.
    """
    exact = torch.promote_types(state.dtype, torch.float32)
    squared = (state.to(exact) - target.to(state.device, exact)).square().mean(dim=-1)
    if published == "wmdp":
        return squared.mean()
    counted = mask.to(state.device)
    kept = torch.where(counted, squared, torch.zeros_like(squared))  # a value that is no number stays out, too
    if published == "open_unlearning":
        return kept.sum(dim=1).mean() * (1 / counted.sum(dim=1)).mean()
    return kept.sum() / counted.sum().clamp_min(1)
