"""Leading directions that a change of value vectors writes into the residual stream, and what they are close to.

Read it as: the change of a down-projection is a sum of rank-1 parts, each a direction of the residual stream (a left
singular vector) times the neurons it was added to; large singular values first. `beyond_chance` says whether some
directions of interest (the answers' unembedding rows) are closer to it than as many random ones.
Does not show: that the model uses the direction; and a change along the whole unembedding is close to every token's.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

EXACT_BELOW = 1024
"""Up to this size the singular vectors are exact; above it a randomised estimate (Halko, Martinsson and Tropp 2011)."""

OVERSAMPLED = 16
"""Further directions an estimate is taken with."""


@dataclass(frozen=True)
class Directions:
    """What was added to some value vectors, taken apart."""

    values: Float[Tensor, " k"]
    """Singular values of the change, largest first."""
    share: Float[Tensor, " k"]
    """Share of the squared norm of the change in each."""
    vectors: Float[Tensor, "k d_model"]
    """Unit directions in the residual stream."""


def directions_of(change: Float[Tensor, "neuron d_model"], k: int, seed: int = 0) -> Directions:
    """The k leading directions of a change; fewer when its rank is lower.

    Args:
        change: after minus before, one value vector a row.
        k: how many.
        seed: of the estimate.
    """
    moved = change[change.abs().amax(dim=1) > 0].float()
    total = float(moved.double().square().sum())
    if not total:
        none = torch.zeros(0)
        return Directions(none, none, torch.zeros(0, change.shape[1]))
    if min(moved.shape) <= EXACT_BELOW:
        _, values, rows = torch.linalg.svd(moved, full_matrices=False)
    else:
        with torch.random.fork_rng(devices=[moved.device] if moved.is_cuda else []):
            torch.manual_seed(seed)
            _, values, columns = torch.svd_lowrank(moved, q=min(k + OVERSAMPLED, *moved.shape), niter=4)
        rows = columns.T
    kept = int((values[:k] > 1e-6 * values[0]).sum())
    return Directions(values[:kept], values[:kept].square() / total, rows[:kept])


def closeness(direction: Float[Tensor, " d_model"], rows: Float[Tensor, "row d_model"]) -> Float[Tensor, " row"]:
    """Absolute cosine with each row; a singular vector has no sign. A row of zeros is close to nothing."""
    length = torch.linalg.vector_norm(rows, dim=1, dtype=torch.float32) * direction.float().norm()
    return torch.nan_to_num((rows @ direction.to(rows.dtype)).float().abs() / length, nan=0.0)


def beyond_chance(found: float, others: Float[Tensor, " row"], count: int, draws: int, seed: int) -> float:
    """How often as many random rows come as close: the p-value of the largest of `count` cosines.

    Args:
        found: the largest cosine of the rows of interest.
        others: cosines of all other rows.
        count: how many rows of interest there are.
        draws: random sets compared with; the smallest p is 1 / (draws + 1).
        seed: of the draws.
    """
    generator = torch.Generator().manual_seed(seed)
    picked = torch.randint(len(others), (draws, count), generator=generator)
    best = others.cpu()[picked].amax(dim=1)
    return (1 + int((best >= found).sum())) / (draws + 1)
