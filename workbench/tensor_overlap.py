"""`overlap_of`: how far the leading directions of a change lie in the leading directions of the matrix it was made to.

For both matrices the r leading left and right singular vectors are taken; their cosines are kept. The squared singular
values of these r by k cosines are those of the principal angles (Björck and Golub 1973,
https://doi.org/10.1090/S0025-5718-1973-0348991-3); the mean over the k is the normalised subspace similarity of Hu et
al. 2021 (LoRA), https://arxiv.org/abs/2106.09685, section 7.2, with the base's matrix as one side.

Read it as: 1 is a change made along what the base's matrix does most, so it strengthens or weakens what is there; a
random direction of d dimensions has r / d of its squared length in r others.
Does not show: what the directions mean. Where the base's singular values fall slowly, which vectors count as leading is
half chance. "Left" belongs to the first stored axis: of most architectures what a matrix writes, of GPT-2 what it
reads.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from scipy.sparse.linalg import svds

from workbench.comparison import CompareOptions

NOTHING = 1e-6
"""Directions of the base below this share of its strongest are none."""


@dataclass(frozen=True)
class Overlap:
    """Cosines of the base's leading directions with those of a change."""

    base_values: Float[np.ndarray, " base"]
    """Singular values of the base, largest first."""
    left: Float[np.ndarray, "base change"]
    """Cosines of the left singular vectors."""
    right: Float[np.ndarray, "base change"]
    """Of the right ones."""


@dataclass(frozen=True)
class Leading:
    """The leading part of a singular value decomposition."""

    values: Float[np.ndarray, " k"]
    left: Float[np.ndarray, "row k"]
    right: Float[np.ndarray, "column k"]


def overlap_of(
    base: Float[np.ndarray, "row column"],
    difference: Float[np.ndarray, "changed_row changed_column"],
    places: tuple[Sequence[int], Sequence[int]],
    rank: int,
    options: CompareOptions,
) -> Overlap | None:
    """Hold a change against the matrix it was made to; None when one of them has no direction.

    Args:
        base: the matrix before, finite.
        difference: the change at the rows and columns that changed; it is zero elsewhere.
        places: these rows and columns.
        rank: of the change; no more of its directions are taken.
        options: how many directions, and up to which size they are taken from the Gram matrix.

    Raises:
        ArpackError: when the iteration for a large matrix does not end.
    """
    k = min(options.base_directions, rank)
    if not k or not base.any():
        return None
    own = leading(base, options.base_directions, options)
    kept = own.values > NOTHING * own.values[0]
    change = leading(difference, k, options)
    rows, columns = (np.asarray(at, dtype=int) for at in places)
    left, right = own.left[rows][:, kept].T @ change.left, own.right[columns][:, kept].T @ change.right
    return Overlap(own.values[kept], left, right)


def leading(matrix: Float[np.ndarray, "row column"], k: int, options: CompareOptions) -> Leading:
    """The k leading singular values and vectors, largest first.

    From the Gram matrix of the shorter side where that is small (in double precision, exact enough for directions that
    are strong); else by Lanczos iteration (ARPACK) in single precision.

    Args:
        matrix: finite.
        k: how many; at most as many as the shorter side.
        options: `exact_below` says what is small.
    """
    k, short = min(k, *matrix.shape), min(matrix.shape)
    scale = float(np.abs(matrix).max()) or 1.0
    found = (_iterated if short > max(options.exact_below, k) else _from_gram)(matrix / scale, k, options.seed)
    return Leading(found.values * scale, found.left, found.right)


def _from_gram(matrix: Float[np.ndarray, "row column"], k: int, _: int) -> Leading:
    # By torch throughout: the threads of numpy's own BLAS get in the way of torch's, and small matrices pay for it.
    flat = matrix.shape[0] <= matrix.shape[1]
    wide = torch.from_numpy(np.ascontiguousarray(matrix if flat else matrix.T)).double()
    squares, vectors = torch.linalg.eigh(wide @ wide.T)
    values, near = squares.flip(0)[:k].clamp_min(0).sqrt(), vectors.flip(1)[:, :k]
    far = torch.where(values > 0, (wide.T @ near) / values, 0.0)
    left, right = (near, far) if flat else (far, near)
    return Leading(values.numpy(), left.numpy(), right.numpy())


def _iterated(matrix: Float[np.ndarray, "row column"], k: int, seed: int) -> Leading:
    start = np.random.default_rng(seed).standard_normal(min(matrix.shape)).astype(np.float32)
    left, values, right = svds(matrix.astype(np.float32), k=k, v0=start)
    order = np.argsort(-values)
    return Leading(values[order], left[:, order], right[order].T)
