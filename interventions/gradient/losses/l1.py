"""l1-sparse: a penalty on the size of all weights while the model is trained on retain facts.

Source: Jia et al. 2023, https://arxiv.org/abs/2304.04934. Formula: weight * sum |theta|, the weight falling in a line
from its start to 0 over all epochs but the last `free` ones, where there is none: start * (1 - epoch/(epochs - free)).
As in the authors' code (start 5e-4 for vision; scale it by the number of weights).
Expect: weights that only the forget facts needed go to 0. Cannot do: know which facts are to be forgotten.
"""

from collections.abc import Iterable

import torch
from jaxtyping import Float
from torch import Tensor


def l1_norm(parameters: Iterable[Tensor]) -> Float[Tensor, ""]:
    """Sum of the absolute values of all weights, summed in float32 (float64 for such weights)."""
    sums = [p.abs().sum(dtype=torch.promote_types(p.dtype, torch.float32)) for p in parameters]
    return torch.stack(sums).sum()


def l1_weight(start: float, epoch: int, epochs: int, free: int = 0) -> float:
    """What the norm is multiplied by.

    Args:
        start: its value in the first epoch.
        epoch: from 0.
        epochs: number of all.
        free: how many at the end go without.
    """
    falling = epochs - free
    return start * (1 - epoch / falling) if epoch < falling else 0.0
