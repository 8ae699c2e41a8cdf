"""Training one expert of a mixture: names for slices of fused tensors, and leaves that share their memory.

Transformers keeps all experts of a layer in one tensor, (expert, out, in). `...experts.down_proj[5]` names the slice of
expert 5; `workbench.parameters` makes such names of sites, `workbench.training` trains by them.

Why a view: the optimizer is given a leaf that *is* the slice (same memory), so neither its update, nor weight decay,
nor its running means can reach another expert, and nothing has to be copied back. Masking the gradient of the whole
tensor is not enough: AdamW's weight decay moves every entry whatever its gradient.
Does not show: that the other experts *do* the same as before; what reaches them comes from the trained one.

Source: one-expert unlearning, Zhuang et al. 2024, https://arxiv.org/abs/2411.18797.
"""

import re
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from workbench.errors import BadInput

_SLICE = re.compile(r"^(?P<name>.+)\[(?P<expert>\d+)\]$")


def slice_name(parameter: str, expert: int) -> str:
    """Name of one expert's part of a fused parameter."""
    return f"{parameter}[{expert}]"


def split_name(name: str) -> tuple[str, int | None]:
    """The parameter and the expert that a name means; None for the whole parameter."""
    found = _SLICE.match(name)
    return (found["name"], int(found["expert"])) if found else (name, None)


def whole_names(names: Collection[str]) -> list[str]:
    """The parameters that some names lie in, each once, in order."""
    return list(dict.fromkeys(split_name(name)[0] for name in names))


def slices_of(names: Collection[str]) -> dict[str, list[int]]:
    """Parameter -> experts, for the parameters of which only slices are named, ascending."""
    whole = {name for name in names if split_name(name)[1] is None}
    found: dict[str, set[int]] = {}
    for name in names:
        parameter, expert = split_name(name)
        if expert is not None and parameter not in whole:
            found.setdefault(parameter, set()).add(expert)
    return {name: sorted(experts) for name, experts in found.items()}


class Leaves:
    """Leaf parameters over slices of fused tensors, for an optimizer to hold instead of the whole.

    Args:
        parameters: the model's parameters by name.
        slices: parameter -> experts, as from `slices_of`.

    Raises:
        BadInput: for an expert that a tensor does not have.
    """

    def __init__(self, parameters: Mapping[str, nn.Parameter], slices: Mapping[str, list[int]]) -> None:
        self.of: list[tuple[nn.Parameter, dict[int, nn.Parameter]]] = []
        for name, experts in slices.items():
            fused = parameters[name]
            if fused.ndim < 2 or experts[-1] >= len(fused):
                raise BadInput(f"{name} has no slice {experts[-1]}: its shape is {tuple(fused.shape)}")
            self.of.append((fused, {expert: nn.Parameter(fused.detach()[expert]) for expert in experts}))

    def instead_of(self, moving: list[nn.Parameter]) -> list[nn.Parameter]:
        """What the optimizer holds: the slices in place of their fused tensors."""
        fused = {id(parameter): list(leaves.values()) for parameter, leaves in self.of}
        return [leaf for parameter in moving for leaf in fused.get(id(parameter), [parameter])]

    @contextmanager
    def masked(self) -> Iterator[None]:
        """While the block runs, gradients of the other experts are dropped as they arrive.

        They would not be used; but the norm that gradients are clipped to must be over what is trained.
        """
        handles = [fused.register_hook(_keep_only(leaves)) for fused, leaves in self.of if fused.requires_grad]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    def watch(self, optimizer: torch.optim.Optimizer) -> None:
        """Give every leaf its part of the gradient just before each step (after clipping)."""
        optimizer.register_step_pre_hook(self._lend)

    def _lend(self, *_: Any) -> None:
        for fused, leaves in self.of:
            for expert, leaf in leaves.items():
                leaf.grad = None if fused.grad is None else fused.grad[expert]


def _keep_only(experts: Collection[int]) -> Any:
    def mask(gradient: Tensor) -> Tensor:
        kept = torch.zeros_like(gradient)
        chosen = torch.tensor(sorted(experts), device=gradient.device)
        kept[chosen] = gradient[chosen]
        return kept

    return mask
