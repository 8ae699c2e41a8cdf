"""Quantisation: round the weights to a few bits and see whether a small unlearning step disappears in the rounding.

Source: Zhang et al. 2024, https://arxiv.org/abs/2410.16454. Variant: symmetric round-to-nearest per output row, the
simplest scheme; step = largest magnitude of the row / (2^(bits-1) - 1). Matrices inside the blocks only.
Read it as: if the answers come back, the unlearning moved weights by less than half a step. `same_codes` says so
without asking anything: the share of weights whose integer is the base's. Small models move weights by far more than
a step.
Does not show: what NF4, GPTQ or AWQ would do; nor what computing in few bits, beside holding the weights in them, does.
"""

from collections.abc import Iterable
from typing import ClassVar

import torch
from jaxtyping import Float, Int
from pydantic import Field
from torch import Tensor

from audits.attacks.attack import Attack
from workbench.checkpoint import Checkpoint
from workbench.concepts import Concept, FactSet
from workbench.edits import WeightEdit, fit_weights
from workbench.errors import BadInput
from workbench.model import HookedModel
from workbench.restoring import stored_value, stored_weights


class Quantise(Attack):
    """Round-to-nearest weights."""

    threat: ClassVar[str] = "Somebody has the weights and runs them in few bits, as many do to save memory; no data."

    bits: int = Field(4, ge=2, le=8)
    """Bits a weight."""

    def attempts(self, model: HookedModel, concept: Concept) -> Iterable[WeightEdit]:
        """The rounded weights."""
        yield self.fit(model, concept)

    def fit(self, model: HookedModel, facts: FactSet | Concept) -> WeightEdit:  # noqa: ARG002  # attacks share this
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
    step = _step(weight, bits)
    return torch.where(step > 0, (weight / step.clamp(min=torch.finfo(weight.dtype).tiny)).round() * step, weight)


def codes(weight: Float[Tensor, "*rows width"], bits: int) -> Int[Tensor, "*rows width"]:
    """The integers that `round_to_nearest` stores, from -(2^(bits-1) - 1) to 2^(bits-1) - 1."""
    step = _step(weight, bits)
    return (weight / step.clamp(min=torch.finfo(weight.dtype).tiny)).round().to(torch.int32)


def same_codes(weight: Float[Tensor, "*own"], base: Float[Tensor, "*other"], bits: int) -> float:
    """Share of the weights that are stored as the same integer as the base's: 1 when rounding hides every change.

    The steps of the two may differ a little, where a row's largest weight moved.

    Raises:
        BadInput: for two shapes, or no weights.
    """
    if weight.shape != base.shape or not weight.numel():
        raise BadInput(
            f"Codes are compared weight by weight; got shapes {tuple(weight.shape)} and {tuple(base.shape)}: "
            "give the same tensor of the two models"
        )
    return float((codes(weight, bits) == codes(base, bits)).double().mean())


def codes_kept(model: HookedModel, base: Checkpoint, bits: int) -> float:
    """Share of the weights inside the blocks that are stored as the same integer as the base's.

    The base is not opened: its tensors are read from its files, one parameter at a time.

    Raises:
        BadInput: when the base stores them otherwise (an adapter, packed weights, another shape).
    """
    same, total = 0.0, 0
    with stored_weights(base) as shards:
        for name in model.block_matrices():
            parameter = model.parameter(name).detach().cpu()
            same += same_codes(parameter, stored_value(model, name, shards), bits) * parameter.numel()
            total += parameter.numel()
    return same / total


def _step(weight: Tensor, bits: int) -> Tensor:
    return weight.abs().amax(dim=-1, keepdim=True) / (2 ** (bits - 1) - 1)
