"""The smallest erasure as other states feel it: labels go from some states, and all are moved as little as can be.

Of all linear maps P after which the forget states have no covariance with their labels (P S_xz = 0), the one that moves
another distribution least, E |Px - x|^2 over x ~ D, is P = I - U (U' M^-1 U)^-1 U' M^-1, with U an orthonormal basis of
the columns of S_xz and M the second moment of D (its covariance when the mean is kept). This is LEACE's theorem
(Belrose et al. 2023, https://arxiv.org/abs/2306.03819) with the metric taken from D instead of the erased states; with
D the erased states themselves the two are the same. A ridge stands for everything that D does not show.
Why: LEACE fitted on a few states reads its directions off wherever these few vary little, and so moves all other states
without bound; a map that is folded into weights meets all of them.
Read it as: `sparing(states, labels, others)(x)`; what it guarantees on `states` is what LEACE guarantees.
Does not show: that the others are kept: what they share with the labels' directions goes from them too.
"""

import torch
from jaxtyping import Float
from torch import Tensor

from workbench.erasure import NEGLIGIBLE, Eraser, principal_axes
from workbench.errors import BadInput


def sparing(
    states: Float[Tensor, "n d"],
    labels: Float[Tensor, "n k"],
    others: Float[Tensor, "m d"],
    *,
    affine: bool = True,
    ridge: float = 0.01,
) -> Eraser:
    """Fit the erasure.

    Args:
        states: what the labels are erased from.
        labels: one-hot, or numbers.
        others: states that are to move as little as possible, best those erased among them.
        affine: whether the others' mean is kept; else the map is linear.
        ridge: what is added to the second moment, in shares of its mean over the dimensions; more than 0.

    Raises:
        BadInput: when there are fewer than two states, or no others.
    """
    if len(states) < 2 or not len(others):
        raise BadInput(
            f"Erasing needs at least two states and others to spare, here are {len(states)} and {len(others)}"
        )
    states, labels, others = (given.to("cpu").double() for given in (states, labels, others))
    centred = states - states.mean(dim=0)
    covariance = centred.mT @ (labels - labels.mean(dim=0)) / len(states)
    basis, size, _ = torch.linalg.svd(covariance, full_matrices=False)
    told = basis[:, size > NEGLIGIBLE * centred.square().mean(dim=0).sum().sqrt()]
    mean = others.mean(dim=0) if affine else torch.zeros_like(others[0])
    axes, spread = principal_axes(others - mean)
    moment = spread.square() / len(others)
    floor = (ridge * moment.sum() / len(mean)).clamp(min=1e-100)  # others that are all alike have no moment
    shown = axes.mT @ told
    inverse = axes @ (shown / (moment + floor)[:, None]) + (told - axes @ shown) / floor
    return Eraser(told, inverse @ torch.linalg.inv(told.mT @ inverse), mean)


def between(states: Float[Tensor, "n d"], labels: Float[Tensor, "n k"]) -> float:
    """Share of the variance of states that lies between the labels' means; 0 when the states do not vary."""
    labels = labels.to(states)
    means = labels @ ((labels.mT @ states) / labels.sum(dim=0)[:, None])
    total = spread(states)
    return float((means - states.mean(dim=0)).square().sum()) / total if total > 0 else 0.0


def spread(states: Float[Tensor, "n d"]) -> float:
    """Sum of the squared distances of states to their mean."""
    return float((states - states.mean(dim=0)).square().sum())
