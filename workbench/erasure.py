"""LEACE: the smallest affine change of states after which no linear reader can tell the labels.

Source: Belrose et al. 2023, "LEACE: Perfect linear concept erasure in closed form", https://arxiv.org/abs/2306.03819.
Variant: the theorem, with the sample's own moments: r(x) = x - W^+ Q Q' W (x - mean), W the inverse root of the states'
covariance and Q an orthonormal basis of W times the covariance of states and labels. The published code
(EleutherAI/concept-erasure 0.2.4) shrinks the covariance after Bodnar, Gupta and Parolya 2014
(https://arxiv.org/abs/1308.2608) and leaves directions with a singular value below 0.01: `shrinkage=True,
smallest=0.01` reproduces it. The change has low rank and is kept in factors, so no width x width matrix is ever made.
Read it as: on the states it was fitted on, any linear classifier is as good as the commonest label, and no affine
change that achieves this moves the states less.
Does not show: that the labels are gone. Readers that are not linear may find them, and so may linear ones on states it
was not fitted on, the more so the fewer states there were.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from workbench.errors import BadInput

NEGLIGIBLE = 1e-6
"""Directions of less than this share of the largest spread hold rounding, not states."""


@dataclass(frozen=True)
class Eraser:
    """A fitted erasure: r(x) = x - left right' (x - mean), one for every leading index."""

    left: Float[Tensor, "*batch d k"]
    """What is taken away, one column a direction that told labels; a column of zeros is a direction that told none."""
    right: Float[Tensor, "*batch d k"]
    """What reads how much of it there is."""
    mean: Float[Tensor, "*batch d"]
    """Mean state; zero when only a linear map was asked for."""

    def __call__(self, states: Float[Tensor, "*batch n d"]) -> Float[Tensor, "*batch n d"]:
        """The states without what tells the labels, in the dtype they came in."""
        exact = states.to(self.mean)
        return (exact - (exact - self.mean[..., None, :]) @ self.right @ self.left.mT).to(states)

    @property
    def rank(self) -> Int[Tensor, "*batch"]:
        """Number of directions taken away: at most one less than there are labels."""
        return (self.left.abs().amax(dim=-2) > 0).sum(dim=-1)

    @property
    def matrix(self) -> Float[Tensor, "*batch d d"]:
        """The map as one matrix, for small widths."""
        width = torch.eye(self.mean.shape[-1], dtype=self.mean.dtype, device=self.mean.device)
        return width - self.left @ self.right.mT


def leace(
    states: Float[Tensor, "*batch n d"],
    labels: Float[Tensor, "n k"],
    *,
    affine: bool = True,
    shrinkage: bool = False,
    smallest: float = NEGLIGIBLE,
) -> Eraser:
    """Fit an erasure, for all leading indices (layers) at once.

    Args:
        states: what to erase from.
        labels: what to erase: one-hot for classes (one column is enough for two), or numbers.
        affine: whether the mean is kept; else the map is linear.
        shrinkage: whether the covariance is shrunk towards a multiple of the identity, as published. The labels then
            stay readable to some degree.
        smallest: singular values of (whitened states, labels) below this are left; published is 0.01.

    Raises:
        BadInput: when there are fewer than two states.
    """
    n = states.shape[-2]
    if n < 2:
        raise BadInput(f"Erasing needs at least two states to fit on, here is {n}; give more facts")
    states, told = (_exact(given) for given in (states, labels))
    mean = states.mean(dim=-2)
    centred = states - mean[..., None, :]
    axes, spread = principal_axes(centred)
    variance = spread.square() / n
    if shrinkage:
        variance = _shrunk(variance, n, states.shape[-1])
    root = variance.sqrt()
    inverse = torch.where(spread > 0, 1 / root, 0.0)
    covariance = (centred @ axes).mT @ (told - told.mean(dim=0)) / (n - 1)
    basis, size, _ = torch.linalg.svd(inverse[..., None] * covariance, full_matrices=False)
    basis = basis * (size > smallest)[..., None, :]
    left, right = axes @ (root[..., None] * basis), axes @ (inverse[..., None] * basis)
    return Eraser(left, right, mean if affine else torch.zeros_like(mean))


def principal_axes(
    centred: Float[Tensor, "*batch n d"],
) -> tuple[Float[Tensor, "*batch d r"], Float[Tensor, "*batch r"]]:
    """Orthonormal axes that the rows span and the length of the rows' components along each, r = min(n, d).

    By the eigenvectors of the smaller of the two Gram matrices; an axis along which there is nothing is zero.
    """
    narrow = centred.shape[-2] > centred.shape[-1]
    squares, vectors = torch.linalg.eigh(centred.mT @ centred if narrow else centred @ centred.mT)
    spread = squares.clamp(min=0).sqrt()
    spread = spread * (spread > NEGLIGIBLE * spread.amax(dim=-1, keepdim=True))
    if narrow:
        return vectors * (spread > 0)[..., None, :], spread
    return centred.mT @ vectors * torch.where(spread > 0, 1 / spread, 0.0)[..., None, :], spread


def _shrunk(variance: Float[Tensor, "*batch r"], n: int, width: int) -> Float[Tensor, "*batch r"]:
    """Variances along the axes after the optimal linear shrinkage of the covariance towards the identity."""
    total, squares = variance.sum(dim=-1, keepdim=True), variance.square().sum(dim=-1, keepdim=True)
    kept = (1 - total.square() / n / (squares - total.square() / width)).nan_to_num(0.0).clamp(0, 1)
    return kept * variance + (1 - kept) * total / width


def _exact(values: Tensor) -> Tensor:
    """As float64, on the processor where the accelerator has none (Apple's)."""
    return values.to("cpu" if values.device.type == "mps" else values.device).double()
