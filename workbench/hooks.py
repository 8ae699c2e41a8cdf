"""The torch hooks under every reading and patching: what a site's value becomes, and where the hook sits.

A rewrite is a function from a site's value to its new value. `hooked` puts one on a module boundary for the length of
a `with` block and takes it off again, also after an error.
"""

import contextlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from workbench.model_sites import Tap

Rewrite = Callable[[Tensor], Tensor]
"""What a site's value becomes: (row, pos, width) in, the same shape out."""

READ_ONLY = {
    "resid_mid": "the tap is the MLP norm's input, so a rewrite would miss the skip connection; rewrite attn_out",
    "router": "the choice of experts is made beside the logits, so rewriting them would change nothing",
}
"""Parts that can be read but not rewritten at their tap, and why."""


@dataclass(frozen=True, eq=False)
class Put:
    """Stores `values[i]` at (rows[i], positions[i]) and leaves the rest. Plain data, so it can be sent elsewhere."""

    rows: Int[Tensor, " n"]
    positions: Int[Tensor, " n"]
    values: Float[Tensor, "n *width"]

    def __call__(self, value: Tensor) -> Tensor:
        """A copy with the values in it."""
        changed = value.clone()
        where = (self.rows.to(value.device), self.positions.to(value.device))
        changed[where] = self.values.to(value.device, value.dtype)
        return changed


def put(rows: Int[Tensor, " n"], positions: Int[Tensor, " n"], values: Float[Tensor, "n *width"]) -> Put:
    """A rewrite that stores `values[i]` at (rows[i], positions[i]) and leaves the rest."""
    return Put(rows, positions, values)


@dataclass(frozen=True)
class Chain:
    """Several rewrites in order."""

    functions: Sequence[Rewrite]

    def __call__(self, value: Tensor) -> Tensor:
        """The value after all of them."""
        for function in self.functions:
            value = function(value)
        return value


@dataclass(frozen=True)
class Keep:
    """Changes nothing and notes the value down."""

    acts: dict[Any, Tensor]
    key: Any

    def __call__(self, value: Tensor) -> Tensor:
        """The value as it was."""
        self.acts[self.key] = value
        return value


@dataclass(frozen=True)
class Within:
    """A rewrite of entries `start` to `stop` of the last axis; a single entry is given without that axis."""

    start: int
    stop: int
    change: Rewrite

    def __call__(self, value: Tensor) -> Tensor:
        """A copy with those entries changed."""
        where = (..., self.start if self.stop - self.start == 1 else slice(self.start, self.stop))
        changed = value.clone()
        changed[where] = self.change(value[where])
        return changed


@dataclass(frozen=True)
class Part:
    """A change of a site that is some entries of a boundary's last axis; a mere reading leaves every bit."""

    start: int
    stop: int
    change: Rewrite

    def __call__(self, value: Tensor) -> Tensor:
        """The boundary's value after the change."""
        given = value[..., self.start : self.stop]
        changed = self.change(given)
        if changed is given and not torch.is_grad_enabled():  # with a graph, what is read must be part of it
            return value
        return torch.cat([value[..., : self.start], changed, value[..., self.stop :]], dim=-1)


@dataclass(frozen=True)
class Folded:
    """Inside a mixture of experts the tokens of a batch are one list; the change sees (row, pos, width) even so."""

    shape: tuple[int, int]
    change: Rewrite

    def __call__(self, value: Tensor) -> Tensor:
        """The changed value in the shape it came in."""
        if value.ndim > 2:
            return self.change(value)
        folded = value.view(*self.shape, -1)
        changed = self.change(folded)
        if changed is folded and not torch.is_grad_enabled():  # with a graph, what is read must be part of it
            return value
        return changed.view_as(value)


@dataclass(frozen=True)
class Scaled:
    """A change of a site whose value is the boundary's times `scale`."""

    scale: float
    change: Rewrite

    def __call__(self, value: Tensor) -> Tensor:
        """The boundary's value after the change; a mere reading leaves every bit."""
        given = value * self.scale
        changed = self.change(given)
        return value if changed is given else changed / self.scale


@dataclass(frozen=True)
class _Hook:
    """A rewrite as torch calls it."""

    change: Rewrite

    def on_input(self, _: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
        if args:
            return (self.change(args[0]), *args[1:]), kwargs
        return args, {**kwargs, "hidden_states": self.change(kwargs["hidden_states"])}

    def on_output(self, _: nn.Module, __: Any, output: Any) -> Any:
        if isinstance(output, tuple):
            return (self.change(output[0]), *output[1:])
        return self.change(output)


@contextlib.contextmanager
def hooked(root: nn.Module, tap: Tap, change: Rewrite) -> Iterator[None]:
    """Rewrite the value at a module boundary of `root` while the block runs."""
    change = change if tap.scale == 1 else Scaled(tap.scale, change)
    hook = _Hook(change if tap.entries is None else Part(*tap.entries, change))
    module = root.get_submodule(tap.path)
    if tap.side == "in":
        handle = module.register_forward_pre_hook(hook.on_input, with_kwargs=True)
    else:
        handle = module.register_forward_hook(hook.on_output)
    try:
        yield
    finally:
        handle.remove()
