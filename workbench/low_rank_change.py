"""`LowRank`: a change of one weight that is a product of two thin matrices, as a low-rank adapter (LoRA) makes it.

    weight + scale * up @ down

Read it as: `change.apply(parameter)` adds it in place. Stored are the two matrices and not the new weight, so an edit
is as small as its adapter, and can be written out as one. Source: Hu et al. 2021, https://arxiv.org/abs/2106.09685.
Does not show: which share of a full training's change a rank can hold.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from workbench.errors import BadInput


@dataclass(frozen=True)
class LowRank:
    """What is added to one weight."""

    up: Float[Tensor, "out rank"]
    """PEFT's `lora_B`."""
    down: Float[Tensor, "rank in"]
    """PEFT's `lora_A`."""
    scale: float
    """What their product is multiplied by."""
    transposed: bool = False
    """Whether the weight is kept as (in, out): GPT-2's `Conv1D`."""

    def added(self) -> Float[Tensor, "rows columns"]:
        """The product, in the weight's own layout."""
        product = self.scale * (self.up @ self.down)
        return product.T if self.transposed else product

    def apply(self, parameter: Tensor) -> None:
        """Add it to a weight, in place; summed in the wider of the two types, rounded once.

        Raises:
            BadInput: when it does not fit the weight's shape.
        """
        added = self.added().to(parameter.device)
        if added.shape != parameter.shape:
            raise BadInput(f"A change of shape {tuple(added.shape)} does not fit {tuple(parameter.shape)}")
        wide = torch.promote_types(parameter.dtype, added.dtype)
        parameter.copy_(parameter.to(wide) + added)

    def less(self, start: "LowRank") -> "LowRank":
        """This change without another one of the same scale: of the sum of both ranks, and exact.

        Source: Meng et al. 2024 (PiSSA), https://arxiv.org/abs/2404.02948, appendix C.
        """
        assert (self.scale, self.transposed) == (start.scale, start.transposed)
        up, down = torch.cat([self.up, -start.up], dim=1), torch.cat([self.down, start.down])
        return LowRank(up, down, self.scale, self.transposed)

    def stored(self) -> dict[str, Tensor]:
        """Its tensors, for saving."""
        return {"up": self.up, "down": self.down}

    def words(self) -> dict[str, Any]:
        """Everything else, in JSON form."""
        return {"scale": self.scale, "transposed": self.transposed}

    @classmethod
    def rebuilt(cls, words: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> "LowRank":
        """From what was stored."""
        return cls(tensors["up"], tensors["down"], float(words["scale"]), bool(words["transposed"]))
