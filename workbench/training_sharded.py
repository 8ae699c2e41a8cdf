"""FSDP: several processes train one model, each holding a share of every parameter, for models past one GPU.

Start them with `torchrun --nproc-per-node=2 ...` and `TrainingOptions(processes="fsdp")`. What is sharded is a copy
(torch's `fully_shard`: blocks one by one, the rest together), on the GPUs where there are any and else on CPUs through
gloo. When training ends, and before every evaluation, its values are gathered into the model that was given, which is
never wrapped: its parameters stay the same objects, and there is nothing to undo.

Expect: the parameters of one process up to rounding, in every process.
Cannot do: parts of parameters (experts, masks), optimizers other than AdamW, `keep`, and losses that do not pass
through the model they are handed. Every process needs main memory for the model twice, and reads (as before and after
training) the whole model where it lies. Tried on CPUs only.
Does not show: that a GPU's memory suffices; activations are not sharded.
"""

import copy
from collections.abc import Callable, Collection
from dataclasses import dataclass

import torch
from torch import nn
from torch.distributed.tensor import DTensor
from transformers import PreTrainedModel

from workbench.errors import BadInput
from workbench.training_options import TrainingOptions


def started() -> int:
    """How many processes there are; what they speak through is made if need be."""
    from accelerate import PartialState

    return int(PartialState(cpu=not torch.cuda.is_available()).num_processes)


def require_shardable(options: TrainingOptions, parts: Collection[str], kept: bool) -> None:
    """Refuse what cannot be sharded.

    Args:
        options: how to train.
        parts: names of single experts and of masked parameters.
        kept: whether the training is to go on after it was killed.

    Raises:
        BadInput: saying what, and what to do.
    """
    if options.optimizer != "adamw":
        raise BadInput(f"processes='fsdp' trains with AdamW alone: leave optimizer={options.optimizer!r} out")
    if parts:
        raise BadInput(f"processes='fsdp' trains whole parameters, not entries or experts of {next(iter(parts))}")
    if kept:
        raise BadInput("`keep` is for one process: leave it out, or start one process")


def sharded(model: PreTrainedModel) -> PreTrainedModel:
    """A copy of a model of which this process holds a share."""
    from accelerate import PartialState
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    state = PartialState()
    mesh = init_device_mesh(state.device.type, (state.num_processes,))
    shares = copy.deepcopy(model)
    kinds = set(shares._no_split_modules or ())
    for block in [module for module in shares.modules() if type(module).__name__ in kinds]:
        fully_shard(block, mesh=mesh)
    return fully_shard(shares, mesh=mesh)


def is_sharded(model: nn.Module) -> bool:
    """Whether this process holds shares only."""
    from torch.distributed.fsdp import FSDPModule

    return isinstance(model, FSDPModule)


@torch.no_grad()
def gather(shares: nn.Module, model: PreTrainedModel, names: Collection[str] | None) -> None:
    """Give the model the values of the shares of some parameters, None for all; every process calls it."""
    for name, share in shares.named_parameters():
        if names is None or name in names:
            assert isinstance(share, DTensor)
            model.get_parameter(name).copy_(share.full_tensor())


@dataclass(frozen=True)
class Gathered:
    """An evaluation of the model that was given, with the values that the shares have by then."""

    shares: nn.Module
    model: PreTrainedModel
    names: Collection[str] | None
    evaluate: Callable[[int], float | None]

    def __call__(self, step: int) -> float | None:
        """Gather, then evaluate."""
        gather(self.shares, self.model, self.names)
        return self.evaluate(step)


def require_gradients(shares: nn.Module) -> None:
    """Refuse a loss that went past the shares, after its backward pass.

    Raises:
        BadInput: when nothing has a gradient.
    """
    if all(parameter.grad is None for parameter in shares.parameters()):
        raise BadInput(
            "The loss does not depend on the model it was handed, which is a sharded copy under processes='fsdp': use "
            "that model in the loss, or processes='whole'"
        )
