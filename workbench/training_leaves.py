"""What the optimizer holds: parameters, slices of them (single experts), or the entries that a mask selects.

An optimizer moves whatever it holds: masking the gradient of a whole tensor is not enough, because weight decay moves
every entry whatever its gradient, and momentum goes on after a gradient has ended. So it is never given the whole:
a slice is a leaf in the same memory; the entries of a mask are a leaf of their own, copied in before training and
written back after each update. Neither update, nor weight decay, nor running means can then reach another entry, and
the optimizer's state is only as large as what it trains.

Read it as: `leaves.held` goes to the optimizer, `leaves.watch(optimizer)` lends it gradients and writes back.
Cannot do: Muon on masked entries (it works on whole matrices).
Does not show: that the rest *does* the same as before; what reaches it comes from the trained part.

Source: one-expert unlearning, Zhuang et al. 2024, https://arxiv.org/abs/2411.18797; entry masks as in SalUn, Fan et al.
2024, https://arxiv.org/abs/2310.12508, and WAGLE, Jia et al. 2024, https://arxiv.org/abs/2410.17509. WAGLE's code masks
gradients after they were clipped by the norm of all, and leaves weight decay to the rest; here the norm is over what is
trained, and nothing else moves.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from workbench.errors import BadInput
from workbench.experts import slice_name


@dataclass(frozen=True)
class _Slice:
    """One expert of a fused tensor; the leaf is a view."""

    name: str
    whole: nn.Parameter
    expert: int
    leaf: nn.Parameter

    def of(self, tensor: Tensor) -> Tensor:
        """The same part of another tensor of that shape."""
        return tensor[self.expert]

    def write(self) -> None:
        """Nothing to do: it is the same memory."""


@dataclass(frozen=True)
class _Entries:
    """The entries of a tensor that a mask selects; the leaf is a copy, one-dimensional."""

    name: str
    whole: nn.Parameter
    mask: Tensor
    leaf: nn.Parameter

    def of(self, tensor: Tensor) -> Tensor:
        """The same entries of another tensor of that shape."""
        return tensor[self.mask]

    def write(self) -> None:
        """Put the leaf's values where they belong."""
        self.whole.data[self.mask] = self.leaf.data


@dataclass(frozen=True)
class _KeepExperts:
    """Drops the gradient of all experts but some."""

    experts: tuple[int, ...]

    def __call__(self, gradient: Tensor) -> Tensor:
        kept = torch.zeros_like(gradient)
        chosen = torch.tensor(self.experts, device=gradient.device)
        kept[chosen] = gradient[chosen]
        return kept


@dataclass(frozen=True)
class _KeepEntries:
    """Drops the gradient of all entries but some, also where it is not a number."""

    mask: Tensor

    def __call__(self, gradient: Tensor) -> Tensor:
        return gradient.where(self.mask, 0)


class Leaves:
    """What of some parameters may move.

    Args:
        moving: the parameters that move at all, by name.
        slices: parameter -> experts, as from `workbench.experts.slices_of`.
        masks: parameter -> which of its entries, of its shape.

    Raises:
        BadInput: for an expert that a tensor does not have, or a mask that is none.
    """

    def __init__(
        self, moving: Mapping[str, nn.Parameter], slices: Mapping[str, Sequence[int]], masks: Mapping[str, Tensor]
    ) -> None:
        self.parts: list[_Slice | _Entries] = []
        self._keep: list[tuple[nn.Parameter, _KeepExperts | _KeepEntries]] = []
        for name, experts in slices.items():
            self._cut(name, moving[name], experts)
        for name, mask in masks.items():
            self._mask(name, moving[name], mask)
        cut = {id(part.whole) for part in self.parts}
        self.held: dict[str, nn.Parameter] = {}
        for name, parameter in moving.items():
            mine = {part.name: part.leaf for part in self.parts if part.whole is parameter}
            self.held |= mine if id(parameter) in cut else {name: parameter}
        self.masked_names = tuple(masks)

    def _cut(self, name: str, whole: nn.Parameter, experts: Sequence[int]) -> None:
        if whole.ndim < 2 or experts[-1] >= len(whole):
            raise BadInput(f"{name} has no slice {experts[-1]}: its shape is {tuple(whole.shape)}")
        for expert in experts:
            leaf = nn.Parameter(whole.detach()[expert])
            self.parts.append(_Slice(slice_name(name, expert), whole, expert, leaf))
        self._keep.append((whole, _KeepExperts(tuple(experts))))

    def _mask(self, name: str, whole: nn.Parameter, mask: Tensor) -> None:
        if mask.dtype != torch.bool or mask.shape != whole.shape:
            raise BadInput(
                f"The mask of {name} is {mask.dtype} of shape {tuple(mask.shape)}; it must be torch.bool of the "
                f"parameter's shape {tuple(whole.shape)}, True where an entry may move"
            )
        if not mask.any():
            raise BadInput(f"The mask of {name} selects nothing, so it cannot be trained: leave the parameter out")
        mask = mask.to(whole.device)
        self.parts.append(_Entries(name, whole, mask, nn.Parameter(whole.detach()[mask])))
        self._keep.append((whole, _KeepEntries(mask)))

    def shares(self, gradients: Mapping[int, Tensor]) -> dict[nn.Parameter, Tensor]:
        """Gradients of whole parameters (by `id`) -> those of what is held."""
        cut = {id(part.whole) for part in self.parts}
        found = {p: gradients[id(p)] for p in self.held.values() if id(p) in gradients and id(p) not in cut}
        return found | {
            part.leaf: part.of(gradients[id(part.whole)]) for part in self.parts if id(part.whole) in gradients
        }

    def copy(self) -> dict[str, Tensor]:
        """The present values of what is held."""
        return {name: held.detach().clone() for name, held in self.held.items()}

    @torch.no_grad()
    def load(self, values: Mapping[str, Tensor]) -> None:
        """Give what is held, and so the model, other values."""
        for name, held in self.held.items():
            held.copy_(values[name])
        self._write()

    @contextmanager
    def masked(self) -> Iterator[None]:
        """While the block runs, gradients of what may not move are dropped as they arrive.

        They would not be used; but the norm that gradients are clipped to must be over what is trained.
        """
        handles = [whole.register_hook(keep) for whole, keep in self._keep if whole.requires_grad]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    def watch(self, optimizer: torch.optim.Optimizer) -> None:
        """Give every leaf its part of the gradient just before each step (after clipping); write back after it."""
        optimizer.register_step_pre_hook(self._lend)
        optimizer.register_step_post_hook(self._write)

    def _lend(self, *_: Any) -> None:
        for part in self.parts:
            part.leaf.grad = None if part.whole.grad is None else part.of(part.whole.grad)

    def _write(self, *_: Any) -> None:
        for part in self.parts:
            part.write()
