"""Inside a mixture of experts: who is chosen, with what weight, and the neurons of one expert.

transformers keeps all experts of a layer in fused tensors and computes them in one kernel, so an expert's neurons are
no module boundary. The kernel does call `_apply_gate` once, on the chosen (token, expert) pairs sorted by expert; its
result is those neurons; what it is given are their gates and the rest, in a layout that the module names. `tapped`
wraps that call on one layer and spreads the pairs back over (row, position). The kernel itself stays the library's
own, so a reading changes no bit.

Read it as: the value at `L2.e5.mlp_act` is the coefficient of expert 5's value vectors *before* the routing weight, at
`L2.e5.mlp_pre` what enters its activation function (before any clamp); both are 0 where the token was not sent there
(the expert adds nothing there). A rewrite acts only where the token was sent.
Does not show: what an expert would have said about tokens it did not get.
Source: `transformers.integrations.moe` (5.20 to 5.23); nnsight, which reaches the same place, is the test's witness.
"""

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from workbench.errors import BadInput, RunError
from workbench.sites import Site
from workbench.tokens import Batch

if TYPE_CHECKING:
    from workbench.model import HookedModel

Changes = Mapping[int, Callable[[Tensor], Tensor]]
"""Expert -> what becomes of its values, (row, pos, neuron)."""

SORTED_KERNEL = "grouped_mm"
"""The implementation of the experts in which `_apply_gate` sees the pairs sorted by expert."""

ROUTER_NAMES = ("gate", "router")
"""What architectures call the router inside the block."""


@dataclass(frozen=True)
class Mixture:
    """One mixture-of-experts block."""

    block: str
    """Path of the module whose output joins the residual stream."""
    experts: str
    """Path of the fused experts."""
    router: str | None
    """Path of the router; None when the block has none of a name we know."""
    shared: str | None
    """Path of the down-projection of the expert that every token passes; None when there is none."""
    n_experts: int
    """Number of routed experts."""
    fused: bool
    """Whether they are fused tensors that take (tokens, chosen, weights): only then can their neurons be read."""
    layout: bool = False
    """Whether they say how gates and the rest are laid out: only then can what enters the activation be read."""


@dataclass(frozen=True)
class Routing:
    """The choice of experts in one layer."""

    logits: Float[Tensor, "row pos expert"]
    """What the router says, before any softmax or sigmoid."""
    chosen: Int[Tensor, "row pos k"]
    """Experts each token is sent to."""
    weights: Float[Tensor, "row pos k"]
    """What each chosen expert's output is multiplied by."""


def mixture_of(hf: nn.Module, path: str) -> Mixture | None:
    """The mixture in a block's MLP module; None when it is a dense MLP."""
    block = hf.get_submodule(path)
    experts = getattr(block, "experts", None)
    if experts is None:
        return None
    router = next((name for name in ROUTER_NAMES if isinstance(getattr(block, name, None), nn.Module)), None)
    fused = all(hasattr(experts, name) for name in ("gate_up_proj", "down_proj", "_apply_gate", "num_experts"))
    count = experts.num_experts if hasattr(experts, "num_experts") else len(list(experts.children()))
    fused = bool(fused and experts.has_gate)
    shared, layout = _shared(block, path), fused and hasattr(experts, "is_concatenated")
    return Mixture(path, f"{path}.experts", router and f"{path}.{router}", shared, count, fused, layout)


def gates(experts: Any, pre: Float[Tensor, "*any both"]) -> Float[Tensor, "*any neuron"]:
    """The gates, a view, among all that enters the activation of some experts: one half, or every second entry."""
    return pre[..., : pre.shape[-1] // 2] if experts.is_concatenated else pre[..., ::2]


def _shared(block: nn.Module, path: str) -> str | None:
    """The last linear map of the child that is called shared: its down-projection."""
    for name, child in block.named_children():
        if "shared" in name and not isinstance(child, nn.Linear):
            return f"{path}.{name}." + [inner for inner, m in child.named_modules() if isinstance(m, nn.Linear)][-1]
    return None


@contextlib.contextmanager
def routed(experts: nn.Module, note: Callable[[Tensor, Tensor], None]) -> Iterator[None]:
    """Call `note(chosen, weights)`, both (row*pos, k), whenever the experts run inside the block."""

    def before(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        given = [*args, *kwargs.values()]
        note(given[1], given[2])

    handle = experts.register_forward_pre_hook(before, with_kwargs=True)
    try:
        yield
    finally:
        handle.remove()


def routing_of(model: "HookedModel", batch: Batch, layers: Sequence[int]) -> dict[int, Routing]:
    """Who was chosen, from one forward pass.

    Raises:
        BadInput: for a layer that is no mixture of experts, or one whose choice cannot be seen.
    """
    mixtures = model.anatomy.mixtures
    unseen = [layer for layer in layers if layer not in mixtures or not mixtures[layer].fused]
    if unseen:
        raise BadInput(f"Layer {unseen[0]} of {model.name} is no mixture of experts whose routing can be read")
    seen: dict[int, tuple[Tensor, Tensor]] = {}
    with contextlib.ExitStack() as hooks:
        for layer in layers:
            experts = model.hf.get_submodule(mixtures[layer].experts)
            hooks.enter_context(routed(experts, lambda *pair, layer=layer: seen.update({layer: pair})))
        acts = model.run(batch, read=[Site(layer, "router") for layer in layers], logits=False).acts
    shape = (*batch.ids.shape, -1)
    return {
        layer: Routing(acts[Site(layer, "router")], seen[layer][0].view(shape), seen[layer][1].view(shape))
        for layer in layers
    }


@contextlib.contextmanager
def tapped(
    experts: Any, shape: tuple[int, int], changes: Changes, before: Changes = MappingProxyType({})
) -> Iterator[None]:
    """Rewrite the neurons of some experts of one layer while the block runs.

    Args:
        experts: the fused experts module.
        shape: rows and positions of the batch.
        changes: expert -> what becomes of its neurons, (row, pos, neuron); called also when no token is sent there.
        before: expert -> what becomes of what enters its activation function, in the same shape.

    Raises:
        RunError: when the kernel ran without passing by the tap.
    """
    pairs: list[tuple[Tensor, Tensor]] = []
    original = experts._apply_gate
    fired = False

    def remember(chosen: Tensor, _: Tensor) -> None:
        order = torch.sort(chosen.reshape(-1))  # as the kernel sorts them
        pairs[:] = [(order.values, order.indices // chosen.shape[-1])]

    def gate(pre: Tensor) -> Tensor:
        nonlocal fired
        fired = True
        if before:
            given = gates(experts, pre)
            changed = _changed(given, pairs[0], shape, before)
            if changed is not given:
                pre = pre.clone()
                gates(experts, pre)[...] = changed
        return _changed(original(pre), pairs[0], shape, changes)

    implementation = experts.config._experts_implementation
    experts.config._experts_implementation = SORTED_KERNEL
    experts._apply_gate = gate
    try:
        with routed(experts, remember):
            yield
        if not fired:
            raise RunError(
                f"The experts of {type(experts).__name__} did not pass by the tap of their neurons; "
                "this version of transformers computes them another way"
            )
    finally:
        del experts._apply_gate
        experts.config._experts_implementation = implementation


def _changed(
    values: Float[Tensor, "pair neuron"], pairs: tuple[Tensor, Tensor], shape: tuple[int, int], changes: Changes
) -> Float[Tensor, "pair neuron"]:
    """What becomes of values of (expert, token) pairs, sorted by expert, when some experts are changed."""
    expert_of, token_of = pairs
    for expert, change in changes.items():
        here = (expert_of == expert).nonzero()[:, 0]
        tokens = token_of[here]
        spread = values.new_zeros(shape[0] * shape[1], values.shape[-1]).index_copy(0, tokens, values[here])
        value = spread.view(*shape, -1)
        changed = change(value)
        if changed is not value or torch.is_grad_enabled():  # a value that is read is then part of the graph
            values = values.index_copy(0, here, changed.reshape(-1, values.shape[-1])[tokens])
    return values
