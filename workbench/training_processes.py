"""Several processes train as one: each takes its share of every update's items, and gradients are averaged.

Start them with `torchrun --nproc_per_node=2 ...`; on a CPU they speak through gloo. Every process ends with the same
parameters, those of one process up to rounding. This is plain data parallelism: each process holds the whole model.

Why not DistributedDataParallel: it counts on one pass of the wrapped model for each backward pass, while the losses
here may call the model several times, or only a part of it. Cannot do: models past one GPU (`training_sharded` does),
`keep`, Sophia's drawn answers.
"""

import torch
from torch import distributed, nn

from workbench.errors import BadInput
from workbench.training_options import TrainingOptions


def require_processes(processes: int, options: TrainingOptions) -> None:
    """Refuse what several processes cannot do.

    Raises:
        BadInput: saying what and what to do.
    """
    if processes > 1 and options.optimizer == "sophia" and not options.sophia_published:
        raise BadInput("Sophia's drawn answers are for one process: use sophia_published=True, or one process")
    if options.batch_size % (options.accumulate * processes):
        raise BadInput(
            f"{processes} processes and accumulate={options.accumulate} must together divide "
            f"batch_size={options.batch_size}"
        )


def averaged(value: float, processes: int) -> float:
    """The mean of a number over the processes; NaN as soon as one has it."""
    if processes == 1:
        return value
    total = torch.tensor(value, dtype=torch.float64)
    _sum(total)
    return float(total) / processes


def average_gradients(model: nn.Module, processes: int) -> None:
    """Replace every gradient by its mean over the processes; where one has none (an expert that it did not use): 0."""
    if processes == 1:
        return
    moving = [parameter for parameter in model.parameters() if parameter.requires_grad]
    used = torch.tensor([float(parameter.grad is not None) for parameter in moving])
    _sum(used)
    for parameter, users in zip(moving, used.tolist(), strict=True):
        if users:
            parameter.grad = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
            _sum(parameter.grad)
            parameter.grad /= processes


def _sum(tensor: torch.Tensor) -> None:
    if distributed.get_backend() == "nccl" and not tensor.is_cuda:
        moved = tensor.cuda()
        distributed.all_reduce(moved)
        tensor.copy_(moved)
    else:
        distributed.all_reduce(tensor)
