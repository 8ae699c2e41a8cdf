"""The torch hooks under every reading and patching: what a site's value becomes, and where the hook sits.

A rewrite is a function from a site's value to its new value. `hooked` puts one on a module boundary for the length of
a `with` block and takes it off again, also after an error.
"""

import contextlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from jaxtyping import Float, Int
from torch import Tensor, nn

from workbench.model_sites import Tap
from workbench.sites import Site

Rewrite = Callable[[Tensor], Tensor]
"""What a site's value becomes: (row, pos, width) in, the same shape out."""

READ_ONLY = {
    "resid_mid": "the tap is the MLP norm's input, so a rewrite would miss the skip connection; rewrite attn_out",
    "router": "the choice of experts is made beside the logits, so rewriting them would change nothing",
}
"""Parts that can be read but not rewritten at their tap, and why."""


def put(rows: Int[Tensor, " n"], positions: Int[Tensor, " n"], values: Float[Tensor, "n width"]) -> Rewrite:
    """A rewrite that stores `values[i]` at (rows[i], positions[i]) and leaves the rest."""

    def rewrite(value: Tensor) -> Tensor:
        changed = value.clone()
        changed[rows.to(value.device), positions.to(value.device)] = values.to(value.device, value.dtype)
        return changed

    return rewrite


def chain(functions: Sequence[Rewrite]) -> Rewrite:
    """One rewrite that does several, in order."""

    def change(value: Tensor) -> Tensor:
        for function in functions:
            value = function(value)
        return value

    return change


def keep(acts: dict[Site, Tensor], site: Site) -> Rewrite:
    """A rewrite that changes nothing and notes the value down."""

    def note(value: Tensor) -> Tensor:
        acts[site] = value
        return value

    return note


@contextlib.contextmanager
def hooked(root: nn.Module, tap: Tap, change: Rewrite) -> Iterator[None]:
    """Rewrite the value at a module boundary of `root` while the block runs."""

    def on_input(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
        if args:
            return (change(args[0]), *args[1:]), kwargs
        return args, {**kwargs, "hidden_states": change(kwargs["hidden_states"])}

    def on_output(_: nn.Module, __: Any, output: Any) -> Any:
        if isinstance(output, tuple):
            return (change(output[0]), *output[1:])
        return change(output)

    module = root.get_submodule(tap.path)
    if tap.side == "in":
        handle = module.register_forward_pre_hook(on_input, with_kwargs=True)
    else:
        handle = module.register_forward_hook(on_output)
    try:
        yield
    finally:
        handle.remove()
