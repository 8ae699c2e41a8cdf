"""Is a text near a cloud of known texts? Mahalanobis distance with a covariance shrunk towards a ball.

There are fewer prompts than dimensions, so the covariance is kept as its few own axes and one variance for all other
directions. Read it as: yes where the distance from the mean is at most `radius`.
Does not show: which direction it lies in, or whether the cloud is one.
"""

from jaxtyping import Bool, Float
from torch import Tensor


def mahalanobis(
    value: Float[Tensor, "row pos width"],
    mask: Bool[Tensor, "row pos"],  # noqa: ARG001
    *,
    mean: Float[Tensor, " width"],
    axes: Float[Tensor, "axis width"],
    gain: Float[Tensor, " axis"],
    rest: Float[Tensor, ""],
    radius: float,
) -> Bool[Tensor, "row pos"]:
    """Whether the value at a token is at most `radius` from the mean.

    Args:
        value: what is judged.
        mask: where there is a token.
        mean: centre of the cloud.
        axes: its orthonormal axes.
        gain: inverse variance along each.
        rest: inverse variance in every direction beside them.
        radius: greatest distance, in standard deviations.
    """
    return distance(value, mean=mean, axes=axes, gain=gain, rest=rest) <= radius


def distance(
    value: Float[Tensor, "*any width"],
    *,
    mean: Float[Tensor, " width"],
    axes: Float[Tensor, "axis width"],
    gain: Float[Tensor, " axis"],
    rest: Float[Tensor, ""],
) -> Float[Tensor, "*any"]:
    """Distance from the mean, in standard deviations of the cloud."""
    away = value - mean
    along = (away @ axes.T).square()
    beside = (away.square().sum(-1) - along.sum(-1)).clamp(min=0)
    return ((along * gain).sum(-1) + beside * rest).sqrt()
