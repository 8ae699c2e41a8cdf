"""Sophia-G, the second-order optimizer of SOUL: momentum over an estimate of the curvature, cut to the learning rate.

Source: Sophia, Liu et al. 2023, https://arxiv.org/abs/2305.14342 (Algorithm 3 with the Gauss-Newton-Bartlett
estimator); as an unlearning optimizer SOUL, Jia et al. 2024, https://arxiv.org/abs/2404.18239.

    m <- b1 m + (1 - b1) g
    h <- b2 h + (1 - b2) B ghat^2      every k updates; ghat: gradient of the mean cross-entropy of B answers that were
                                       drawn from the model's own predictions
    x <- x - lr wd x - lr clip(m / max(rho h, 1e-12), -1, 1)

SOUL's released code departs from the paper (`published=True`): the squared gradient of the loss itself, at every step
and times a constant, is taken for the curvature (h <- b2 h + (1 - b2) g^2, divisor rho 5120 h + 1e-15), and m is
updated twice a step. It also spares norms and biases from weight decay; here weight decay is on all that moves.

Expect: with the published variant nearly every entry moves by about the learning rate wherever gradients are small
(rho 5120 h < |m|), as if by the sign of the momentum. Does not show: that curvature helped; compare with AdamW.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from workbench.errors import BadInput


class Sophia(torch.optim.Optimizer):
    """Sophia-G.

    Args:
        parameters: what moves.
        lr: the largest move of an entry in one update.
        betas: decay rates of the means of the gradient and of the curvature.
        rho: share of the curvature in the divisor.
        weight_decay: decoupled, per unit of learning rate.
        batch: the constant B of the published variant; the paper's is the number of drawn answers.
        published: as in SOUL's code, see above.
    """

    def __init__(
        self,
        parameters: Iterable[nn.Parameter],
        lr: float,
        betas: tuple[float, float] = (0.9, 0.95),
        rho: float = 0.04,
        weight_decay: float = 0.0,
        batch: int = 5120,
        published: bool = False,
    ) -> None:
        options = {"lr": lr, "betas": betas, "rho": rho, "weight_decay": weight_decay, "batch": batch}
        super().__init__(parameters, options)
        self.published = published

    @torch.no_grad()
    def estimate(self, gradients: Mapping[nn.Parameter, Tensor], count: int) -> None:
        """Take in an estimate of the curvature: the gradient of the mean loss of `count` drawn answers."""
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter in gradients:
                    drawn, decay = gradients[parameter], group["betas"][1]
                    self._means(parameter)[1].mul_(decay).addcmul_(drawn, drawn, value=count * (1 - decay))

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        """One update; a closure is not supported because the trainer never gives one."""
        assert closure is None
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None:
                    self._move(parameter, parameter.grad, group)

    def _move(self, parameter: nn.Parameter, gradient: Tensor, group: Mapping[str, Any]) -> None:
        momentum, curvature = self._means(parameter)
        first, second = group["betas"]
        parameter.mul_(1 - group["lr"] * group["weight_decay"])
        momentum.mul_(first).add_(gradient, alpha=1 - first)
        if self.published:
            momentum.mul_(first).add_(gradient, alpha=1 - first)
            curvature.mul_(second).addcmul_(gradient, gradient, value=1 - second)
            divisor = curvature * (group["rho"] * group["batch"]) + 1e-15
        else:
            divisor = (curvature * group["rho"]).clamp(min=1e-12)
        parameter.add_((momentum / divisor).clamp(-1, 1), alpha=-group["lr"])

    def _means(self, parameter: nn.Parameter) -> tuple[Tensor, Tensor]:
        """The running means of the gradient and of the curvature, zero at first."""
        state = self.state[parameter]
        if not state:
            state["momentum"], state["curvature"] = torch.zeros_like(parameter), torch.zeros_like(parameter)
        return state["momentum"], state["curvature"]


def drawn_gradients(
    model: nn.Module,
    value: Callable[[], Float[Tensor, ""]],
    parameters: list[nn.Parameter],
) -> tuple[dict[int, Tensor], int]:
    """The Gauss-Newton-Bartlett gradient: of the cross-entropy of answers drawn from the model's own predictions.

    Drawn are those positions whose logits the loss reads (padding and prompts are thereby left out), one answer each.

    Args:
        model: the model; its logits are watched while `value` runs.
        value: the loss on a batch, computed anew.
        parameters: with respect to what.

    Returns:
        Gradient by `id` of the parameter, and the number of answers drawn.

    Raises:
        BadInput: when the loss reads no logits.
    """
    with _watched_logits(model) as seen:
        loss = value()
    read = torch.autograd.grad(loss, seen, retain_graph=True, allow_unused=True) if seen else ()
    rows = [logits[used.any(-1)] for logits, used in zip(seen, read, strict=True) if used is not None]
    count = sum(len(part) for part in rows)
    if not count:
        raise BadInput(
            "Sophia draws answers from the logits that the loss reads, and this loss reads none. Use "
            "sophia_published=True, which takes the squared gradient instead, or another optimizer"
        )
    chosen = torch.cat(rows).float()
    answers = torch.multinomial(chosen.detach().softmax(-1), 1)[:, 0]
    gradients = torch.autograd.grad(cross_entropy(chosen, answers), parameters, allow_unused=True)
    return {id(p): g for p, g in zip(parameters, gradients, strict=True) if g is not None}, count


@dataclass(frozen=True)
class _Note:
    """Remembers the logits of every differentiable pass."""

    seen: list[Tensor] = field(default_factory=list)

    def __call__(self, _module: nn.Module, _arguments: Any, output: Any) -> None:
        logits = getattr(output, "logits", None)
        if isinstance(logits, Tensor) and logits.requires_grad:
            self.seen.append(logits)


@contextmanager
def _watched_logits(model: nn.Module) -> Iterator[list[Tensor]]:
    """The logits of every differentiable pass inside the block."""
    note = _Note()
    handle = model.register_forward_hook(note)
    try:
        yield note.seen
    finally:
        handle.remove()
