"""`Change`: new values of one parameter, and `kept`: parameters lent out and put back bit for bit.

Read it as: `Change.between(old, new).apply(parameter)`; few changed entries are stored as positions and values.
Does not show: what the values were before; an edit is put back from a copy (`kept`), not by undoing it.
"""

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Int
from torch import Tensor

from workbench.errors import BadInput
from workbench.experts import whole_names
from workbench.model import HookedModel
from workbench.receipts import bits, parameter_of

SPARSE_BELOW = 0.25
"""A tensor of which a smaller share changed is stored as positions and values, else whole."""


@dataclass(frozen=True)
class Change:
    """New values of one parameter."""

    values: Tensor
    """The whole parameter, or the values at `index`."""
    index: Int[Tensor, " n"] | None = None
    """Flat positions of `values`; None for the whole parameter."""

    def stored(self) -> dict[str, Tensor]:
        """Its tensors, for saving."""
        return {"values": self.values} | ({} if self.index is None else {"index": self.index})

    def apply(self, parameter: Tensor) -> None:
        """Write the values into a parameter, in place.

        Raises:
            BadInput: when they do not fit its shape.
        """
        values = self.values.to(parameter.device, parameter.dtype)
        if self.index is None:
            if values.shape != parameter.shape:
                raise BadInput(f"A change of shape {tuple(values.shape)} does not fit {tuple(parameter.shape)}")
            parameter.copy_(values)
            return
        last = int(self.index.max()) if len(self.index) else -1
        if len(self.index) != len(values) or last >= parameter.numel() or (self.index < 0).any():
            raise BadInput(
                f"A change of {len(values)} values up to position {last} does not fit {tuple(parameter.shape)}"
            )
        parameter.view(-1)[self.index.to(parameter.device)] = values

    @classmethod
    def between(cls, old: Tensor, new: Tensor) -> "Change | None":
        """From one tensor to another; None when they are the same bits."""
        moved = (bits(old) != bits(new)).view(-1).nonzero()[:, 0]
        if not len(moved):
            return None
        if len(moved) < SPARSE_BELOW * old.numel():
            return cls(new.reshape(-1)[moved].clone(), moved)
        return cls(new.clone())


@contextlib.contextmanager
def kept(model: HookedModel, names: Sequence[str]) -> Iterator[dict[str, Tensor]]:
    """Lend parameters out: whatever happens to them inside, afterwards they hold the same bits as before.

    A slice (`...experts.down_proj[5]`) stands for the parameter it lies in.

    Yields:
        Copies of the parameters as they were.

    Raises:
        BadInput: for a parameter that the model does not have.
    """
    parameters = {name: parameter_of(model.hf, name) for name in whole_names(names)}
    before = {name: parameter.detach().clone() for name, parameter in parameters.items()}
    try:
        yield before
    finally:
        with torch.no_grad():
            for name, parameter in parameters.items():
                parameter.copy_(before[name])
