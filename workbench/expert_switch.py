"""Turning experts of a mixture down or off, row by row of a batch: each chosen expert's routing weight gets a factor.

The factor multiplies what the router has decided already, just before the experts run: 0 takes the expert out (also a
bias of its down-projection, which silencing its neurons would leave), 1 changes no bit. Nobody else is chosen in its
place and the weights of the others stay as they are: what changes is that this expert's part is missing, as after an
edit that zeroes its down-projection. Because every row has factors of its own, one pass can try many knock-outs; and
because they can carry a gradient, one backward pass gives the first-order effect of every expert on every row.
Does not show: what a router that could not choose the expert would have done instead.
"""

import contextlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from jaxtyping import Float
from torch import Tensor, nn

from workbench.architectures import TESTED
from workbench.errors import BadInput, RunError

if TYPE_CHECKING:
    from workbench.model import HookedModel


@dataclass(eq=False)
class _Switch:
    """The hook on the experts of one layer."""

    factor: Float[Tensor, "row expert"]
    used: list[bool] = field(default_factory=list)

    def __call__(self, _: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
        names = list(kwargs)
        given = [*args, *kwargs.values()]
        given[2] = self._multiplied(given[1], given[2])
        self.used.append(True)
        return tuple(given[: len(args)]), dict(zip(names, given[len(args) :], strict=True))

    def _multiplied(self, chosen: Tensor, weights: Tensor) -> Tensor:
        by_row = chosen.reshape(len(self.factor), -1).long()
        factor = self.factor.to(weights.device).gather(1, by_row)
        return weights * factor.view_as(weights).to(weights.dtype)


@contextlib.contextmanager
def switched(model: "HookedModel", factors: Mapping[int, Float[Tensor, "row expert"]]) -> Iterator[None]:
    """While the block runs, multiply the routing weights of some layers.

    Args:
        model: the model; passes inside the block must have as many rows as the factors.
        factors: layer -> factor of every expert for every row of the batch.

    Raises:
        BadInput: for a layer that is no mixture of experts, or a model that runs elsewhere.
        RunError: when no pass reached one of the layers.
    """
    if model.whole_passes:
        raise BadInput(f"{model.name} runs on a deployment, where experts cannot be switched off; open it here")
    missing = [layer for layer in factors if layer not in model.mixture_layers]
    if missing:
        raise BadInput(f"Layer {missing[0]} of {model.name} is no mixture of experts; those are {model.mixture_layers}")
    switches = {layer: _Switch(factor) for layer, factor in factors.items()}
    with contextlib.ExitStack() as hooks:
        for layer, switch in switches.items():
            experts = model.hf.get_submodule(model.anatomy.mixtures[layer].experts)
            hooks.callback(experts.register_forward_pre_hook(switch, with_kwargs=True).remove)
        yield
    idle = [layer for layer, switch in switches.items() if not switch.used]
    if idle:
        raise RunError(f"The experts of layer {idle[0]} of {model.name} did not run, so nothing was switched")


def can_start_late(model: "HookedModel") -> bool:
    """Whether a pass from the middle (`Start`) is the same as a whole one: proven by the tests, and no hook edit on."""
    return type(model.hf).__name__ in TESTED and not (model.whole_passes or model.guards)
