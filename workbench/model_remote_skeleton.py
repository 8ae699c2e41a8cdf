"""What is known of a model whose weights are elsewhere: its modules, where its sites are, and in which order they run.

The skeleton is built from the config alone. TransformerLens cannot boot on meta tensors for every architecture (it
splits fused query-key-value weights), so it boots on a *hollow* model, whose parameters all are one zero stretched to
their shape: they take no memory. Only the table of sites is kept from that; the skeleton that stays is on the meta
device, so a weight that was not fetched raises an error and is never taken for a zero.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, PreTrainedConfig, PreTrainedModel

from workbench.model_experts import Mixture

Order = dict[tuple[str, str], int]
"""(module path, `in` or `out`) -> when in a pass that boundary is reached."""


def skeleton_of(config: PreTrainedConfig, trust_remote_code: bool = False) -> PreTrainedModel:
    """The model of a config, on the meta device."""
    with torch.device("meta"):
        return AutoModelForCausalLM.from_config(
            config, attn_implementation="eager", trust_remote_code=trust_remote_code
        ).eval()


def hollow(config: PreTrainedConfig, trust_remote_code: bool = False) -> PreTrainedModel:
    """A model of zeros that takes no memory, for finding out where things are."""
    hf = skeleton_of(config, trust_remote_code)
    for module in hf.modules():
        for name, parameter in module._parameters.items():
            if parameter is not None:
                module._parameters[name] = nn.Parameter(_stretched(parameter), requires_grad=False)
        for name, buffer in module._buffers.items():
            if buffer is not None:
                module._buffers[name] = _stretched(buffer)
    return hf


def _stretched(like: Tensor) -> Tensor:
    return torch.zeros((), dtype=like.dtype).expand(like.shape)


@torch.no_grad()
def order_of(skeleton: PreTrainedModel, mixtures: Mapping[int, Mixture]) -> Order:
    """When each module boundary is reached, seen in one pass of shapes over a skeleton on the meta device.

    The experts of a mixture, whose kernels need numbers, are passed over; nothing inside them is a boundary.
    """
    order: Order = {}

    def note(path: str, side: str) -> Callable[..., None]:
        def reached(*_: Any) -> None:
            order.setdefault((path, side), len(order))

        return reached

    ids = torch.zeros(1, 2, dtype=torch.long, device="meta")
    with ExitStack() as stack:
        for mixture in mixtures.values():
            stack.enter_context(_passed_over(skeleton.get_submodule(mixture.experts)))
        for path, module in skeleton.named_modules():
            stack.callback(module.register_forward_pre_hook(note(path, "in")).remove)
            stack.callback(module.register_forward_hook(note(path, "out")).remove)
        skeleton(input_ids=ids, attention_mask=ids, position_ids=ids, use_cache=False)
    return order


@contextmanager
def _passed_over(experts: nn.Module) -> Iterator[None]:
    experts.forward = lambda hidden_states, *_, **__: torch.zeros_like(hidden_states)
    try:
        yield
    finally:
        del experts.forward
