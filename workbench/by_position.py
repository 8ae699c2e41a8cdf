"""A vector for each position of a text, added to a site's value: fixed noise that does not depend on the batch.

Read it as: position p gets vector p modulo their number. Does not show: what the same token gets at another place.
"""

import torch
from jaxtyping import Float
from torch import Tensor


def add_by_position(
    value: Float[Tensor, "*row pos width"], vectors: Float[Tensor, "period width"]
) -> Float[Tensor, "*row pos width"]:
    """The value plus one vector for each position; they begin anew where they end."""
    return value + vectors[torch.arange(value.shape[-2], device=value.device) % len(vectors)]
