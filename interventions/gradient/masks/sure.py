"""SURE: whole rows of weight matrices by the size of their forget gradient.

Source: Zhang et al. 2024, https://arxiv.org/abs/2410.16454: modules whose gradient norm is at or above a percentile
(90th there) are trained, at a large learning rate. Variant: rows of a matrix (vectors along its last axis) as the
modules; a vector, such as a norm's gain, is one row.
Expect: fewer, larger moves, which quantisation cannot undo. Cannot do: select inside a row; the share of weights is
exceeded by up to a row.
"""

from jaxtyping import Float
from torch import Tensor


def sure(forget: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    """Score of each weight: the L2 norm of its row of the gradient of the loss on forget facts."""
    return forget.norm(dim=-1, keepdim=True).expand_as(forget)
