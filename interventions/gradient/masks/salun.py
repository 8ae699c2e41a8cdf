"""SalUn: weights of largest forget gradient.

Source: Fan et al. 2023, https://arxiv.org/abs/2310.12508. Formula: |gradient of the forget loss|, the top half by one
threshold over all tensors in the authors' code.
Expect: what the facts use, shared with others or not. Cannot do: spare weights that retain facts need.
"""

from jaxtyping import Float
from torch import Tensor


def salun(forget: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    """Score of each weight, given the gradient of the loss on forget facts."""
    return forget.abs()
