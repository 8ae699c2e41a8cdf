"""Quantisation: round the weights to a few bits and see whether a small unlearning step disappears in the rounding.

Source: Zhang et al. 2024, https://arxiv.org/abs/2410.16454. Variant: symmetric round-to-nearest per output row, the
simplest scheme; step = largest magnitude of the row / (2^(bits-1) - 1). Matrices inside the blocks only.
Read it as: if the answers come back, the unlearning moved weights by less than half a step.
Does not show: what NF4, GPTQ or AWQ would do.
"""

import torch
from jaxtyping import Float
from pydantic import Field
from torch import Tensor

from workbench.concepts import FactSet
from workbench.edits import WeightEdit, fit_weights
from workbench.model import HookedModel
from workbench.registry import Method


class Quantise(Method):
    """Round-to-nearest weights."""

    bits: int = Field(4, ge=2, le=8)
    """Bits a weight."""

    def fit(self, model: HookedModel, facts: FactSet) -> WeightEdit:  # noqa: ARG002  # attacks share one signature
        """The rounded weights as an edit; it needs no facts."""
        names = model.block_matrices()

        def change() -> dict[str, int]:
            with torch.no_grad():
                for name in names:
                    parameter = model.parameter(name)
                    parameter.copy_(round_to_nearest(parameter, self.bits))
            return {"tensors": len(names)}

        return fit_weights(model, names, change, self.spec())


def round_to_nearest(weight: Float[Tensor, "*rows width"], bits: int) -> Float[Tensor, "*rows width"]:
    """Symmetric rounding of each row to 2^(bits-1) - 1 steps either side of zero; an all-zero row stays zero."""
    levels = 2 ** (bits - 1) - 1
    step = weight.abs().amax(dim=-1, keepdim=True) / levels
    return torch.where(step > 0, (weight / step.clamp(min=torch.finfo(weight.dtype).tiny)).round() * step, weight)
