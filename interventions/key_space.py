"""The region that forget keys lie in: a box around their mean, or an ellipsoid, widened by a factor alpha.

Read it as: `reach(keys)` is the alpha from which each key lies inside, so any alpha can be judged without a new pass.
Source: as `interventions.key_space_detection`. The published code finds k by bisection to 1e-5; here it is the closed
form, the largest deviation in standard deviations (Bessel's n - 1) over all keys and dimensions.
"""

import math
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from workbench.errors import BadInput
from workbench.sites import Site
from workbench.trigger_mahalanobis import distance
from workbench.triggers import Trigger

CONSTANT = 1e-9
"""A dimension whose standard deviation is a smaller share of its largest value does not vary."""

Keys = Float[Tensor, "n width"]


@dataclass(frozen=True)
class KeyBox:
    """Mean plus or minus alpha * k * standard deviation; at least a share of the dimensions must lie inside."""

    mean: Float[Tensor, " width"]
    std: Float[Tensor, " width"]
    k: float
    """Smallest factor at which the box holds every key it was made from."""
    varied: Bool[Tensor, " width"]
    """Dimensions that vary over the keys; the others are left out, for they would refuse all that is not equal."""
    share: float = 1.0

    @classmethod
    def of(cls, keys: Keys, share: float = 1.0) -> "KeyBox":
        """The box of some keys.

        Raises:
            BadInput: when the keys are all the same.
        """
        mean, std = keys.mean(0), keys.std(0)
        varied = std > CONSTANT * keys.abs().amax(0)
        if not varied.any():
            raise BadInput("The forget prompts all have the same key, so they span no space: look at another site")
        k = ((keys - mean).abs() / std)[:, varied].max()
        return cls(mean, std, float(k), varied, share)

    @property
    def needed(self) -> int:
        """How many varying dimensions must lie inside."""
        return max(1, math.ceil(self.share * int(self.varied.sum()) - 1e-9))

    def reach(self, keys: Keys) -> Float[Tensor, " n"]:
        """The alpha from which each key lies inside."""
        away = ((keys - self.mean).abs() / self.std)[:, self.varied]
        return away.kthvalue(self.needed, dim=1).values / self.k

    def trigger(self, site: Site, alpha: float) -> Trigger:
        """The stored detector."""
        radius = torch.where(self.varied, alpha * self.k * self.std, torch.inf)
        left_out = int((~self.varied).sum())
        share = (self.needed + left_out - 0.5) / len(self.mean)  # half a dimension of room for rounding
        return Trigger(site, "box", {"mean": self.mean.float(), "radius": radius.float()}, {"share": share})


@dataclass(frozen=True)
class KeyEllipsoid:
    """Mahalanobis distance, the covariance shrunk towards a ball of the same mean variance."""

    mean: Float[Tensor, " width"]
    axes: Float[Tensor, "axis width"]
    gain: Float[Tensor, " axis"]
    rest: Float[Tensor, ""]
    k: float
    """Greatest distance of the keys it was made from."""

    @classmethod
    def of(cls, keys: Keys, shrinkage: float) -> "KeyEllipsoid":
        """The ellipsoid of some keys.

        Raises:
            BadInput: when the keys are all the same.
        """
        mean = keys.mean(0)
        _, sizes, axes = torch.linalg.svd(keys - mean, full_matrices=False)
        own = sizes.square() / (len(keys) - 1)
        ball = own.sum() / keys.shape[1]
        if not ball > 0:
            raise BadInput("The forget prompts all have the same key, so they span no space: look at another site")
        gain, rest = 1 / ((1 - shrinkage) * own + shrinkage * ball), 1 / (shrinkage * ball)
        k = distance(keys, mean=mean, axes=axes, gain=gain, rest=rest).max()
        return cls(mean, axes, gain, rest, float(k))

    def reach(self, keys: Keys) -> Float[Tensor, " n"]:
        """The alpha from which each key lies inside."""
        return distance(keys, mean=self.mean, axes=self.axes, gain=self.gain, rest=self.rest) / self.k

    def trigger(self, site: Site, alpha: float) -> Trigger:
        """The stored detector."""
        named = {"mean": self.mean, "axes": self.axes, "gain": self.gain, "rest": self.rest}
        stored = {name: tensor.float().contiguous() for name, tensor in named.items()}
        return Trigger(site, "mahalanobis", stored, {"radius": alpha * self.k})
