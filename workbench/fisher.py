"""Diagonal Fisher information of answers, streamed: how much each weight matters to some facts.

The importance of a weight is the mean of its squared gradient of an answer's negative log-likelihood (the empirical
Fisher: the gradient at the answer that was given, not at one drawn from the model). One gradient and one running sum
are held at a time, whatever the number of facts.

Source: Foster et al. 2023, https://arxiv.org/abs/2308.07707, who square the gradient of one example at a time in the
paper; the published code squares the gradient of a batch's mean loss, which is smaller where examples disagree.
Read it as: `squares(parameters, losses)` -> sums and the number of losses; their ratio is the mean.
Does not show: how a weight matters together with others; the diagonal knows single weights only.
"""

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager

import torch
from jaxtyping import Float
from torch import Tensor

from workbench.concepts import Fact
from workbench.errors import RunError
from workbench.model import HookedModel
from workbench.objectives import answer_loss, labelled


def squares(parameters: Mapping[str, Tensor], losses: Iterable[Float[Tensor, ""]]) -> tuple[dict[str, Tensor], int]:
    """Sum of squared gradients over some losses, in float32 or better, and how many losses there were.

    Args:
        parameters: what to differentiate by; one that a loss does not depend on counts as zero.
        losses: made one after the other, so that only one graph is alive.

    Raises:
        RunError: when a loss or a sum is not a finite number.
    """
    sums = {
        name: torch.zeros_like(p, dtype=torch.promote_types(p.dtype, torch.float32)) for name, p in parameters.items()
    }
    count = 0
    for loss in losses:
        count += 1
        _require_finite(float(loss.detach()), f"The loss of batch {count}")
        gradients = torch.autograd.grad(loss, list(parameters.values()), allow_unused=True)
        for total, gradient in zip(sums.values(), gradients, strict=True):
            if gradient is not None:
                total.add_(gradient.to(total.dtype).square())
    for name, total in sums.items():
        _require_finite(float(total.sum()), f"The squared gradient of {name}")
    return sums, count


def answer_squares(
    model: HookedModel,
    facts: Sequence[Fact],
    names: Sequence[str],
    batch_size: int = 1,
    on_batch: Callable[[float], None] | None = None,
) -> tuple[dict[str, Tensor], int]:
    """`squares` of the answers of facts: each loss is a batch's mean of summed answer tokens, nats.

    Args:
        model: unchanged.
        facts: in the order in which they are batched.
        names: parameters.
        batch_size: facts a gradient; 1 is the Fisher information.
        on_batch: told every loss.

    Raises:
        RunError: when a loss or a sum is not a finite number.
    """
    parameters = {name: model.parameter(name) for name in names}
    with differentiable(list(parameters.values())), torch.enable_grad():
        return squares(parameters, _losses(model, facts, batch_size, on_batch))


def _losses(
    model: HookedModel, facts: Sequence[Fact], size: int, on_batch: Callable[[float], None] | None
) -> Iterator[Float[Tensor, ""]]:
    encoded = model.encode(facts)
    for start in range(0, len(encoded), size):
        batch = {key: value.to(model.device) for key, value in labelled(encoded[start : start + size]).items()}
        loss = answer_loss(model.hf, batch).total.mean()
        yield loss
        if on_batch:
            on_batch(float(loss.detach()))


@contextmanager
def differentiable(parameters: Sequence[Tensor]) -> Iterator[None]:
    """While the block runs, gradients can be taken by some parameters."""
    flags = [parameter.requires_grad for parameter in parameters]
    try:
        for parameter in parameters:
            parameter.requires_grad_(True)
        yield
    finally:
        for parameter, flag in zip(parameters, flags, strict=True):
            parameter.requires_grad_(flag)


def _require_finite(value: float, what: str) -> None:
    if not math.isfinite(value):
        raise RunError(
            f"{what} is {value}: the weights hold numbers that are not finite, or the dtype is too narrow for the "
            "gradients; open the model with dtype float32"
        )
