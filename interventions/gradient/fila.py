"""FILA: where a low-rank adapter begins, so that it can change what matters to the forget facts (pure functions).

Source: Cha et al. 2024 (LoKU), https://arxiv.org/abs/2408.06621. The importance of a weight is its Fisher information
on the forget facts over that on the retain facts. With r the root of a row's sum, diag(1/r) U S V^T of the largest
singular values of diag(r) W is the best approximation of W of that rank where rows weigh r. The adapter begins there
and is taken off the weight, so the model says at first what it said before.

    F = mean g_forget^2 / (1e-5 + mean g_retain^2)        r_i = sqrt(sum_j F_ij)        U S V^T ~ diag(r) W
    up = diag(1 / (r + 1e-5)) U sqrt(S / s)        down = sqrt(S / s) V^T        W <- W - s up down

Variants: Fisher information of single facts, as in the paper (the published code squares gradients of batches of 2 to
4); the exact decomposition (the published code draws an approximate one).
Cannot do: save memory at the start: two squared gradients of every adapted weight are held in float32.
Does not show: that beginning elsewhere would forget less; compare with `lora`, which begins at random.
"""

import torch
from jaxtyping import Float
from torch import Tensor

EPSILON = 1e-5
"""What keeps the two divisions finite, as published."""


def row_weights(forget: Float[Tensor, "out in"], retain: Float[Tensor, "out in"]) -> Float[Tensor, " out"]:
    """Root of the summed relative importance of each row's weights.

    Args:
        forget: mean squared gradient on the forget facts.
        retain: the same on the retain facts.
    """
    return (forget / (EPSILON + retain)).sum(1).sqrt()


def beginning(
    weight: Float[Tensor, "out in"], rows: Float[Tensor, " out"], rank: int, scale: float
) -> tuple[Float[Tensor, "out rank"], Float[Tensor, "rank in"]]:
    """The two matrices that an adapter begins with; `scale` times their product is to be taken off the weight.

    Args:
        weight: the matrix, in the orientation (out, in).
        rows: how much each of its rows matters.
        rank: of the adapter; at most the smaller side of the weight.
        scale: what the adapter's product is multiplied by.
    """
    left, values, right = torch.linalg.svd(rows[:, None] * weight.to(rows.dtype), full_matrices=False)
    root = (values[:rank] / scale).sqrt()
    return left[:, :rank] * root / (rows[:, None] + EPSILON), root[:, None] * right[:rank]
