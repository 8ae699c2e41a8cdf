"""Gradient search for a vector that makes answers likely: what soft prompts and latent perturbations share.

Read it as: `climb(loss, start, ...)`, full batch; the best point seen is kept, the start included, so more steps of
the same length are never worse on what they are fitted on. Nothing is random.
Does not show: whether the point helps with anything else; that is asked on held-out facts.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from audits.attacks.attack import Told
from workbench.hooks import Rewrite
from workbench.model import HookedModel
from workbench.scoring import chunks, score_batch
from workbench.sites import Site
from workbench.tokens import Encoded


@dataclass(frozen=True, eq=False)
class AnswerLoss:
    """Mean negative log-likelihood of some answers while sites are rewritten, nats a fact; carries the graph."""

    model: HookedModel
    encoded: Sequence[Encoded]

    def __call__(self, rewrite: dict[Site, Rewrite]) -> Float[Tensor, ""]:
        """Of all the answers together."""
        parts = [
            score_batch(self.model, batch, targets, rewrite=rewrite, grad=True).logprob.sum()
            for batch, targets in chunks(self.encoded)
        ]
        return -torch.stack(parts).sum() / len(self.encoded)


def climb(
    loss: Callable[[Float[Tensor, "*shape"]], Float[Tensor, ""]],
    start: Float[Tensor, "*shape"],
    *,
    steps: int,
    lr: float,
    project: Callable[[Float[Tensor, "*shape"]], Float[Tensor, "*shape"]] | None = None,
    on_step: Told | None = None,
) -> tuple[Float[Tensor, "*shape"], list[float]]:
    """The point with the lowest loss that was come by, and the loss at every step.

    Adam; with a projection steps of the rows' gradients at unit length, shrinking to nothing: Adam weighs every entry
    alike and would come to rest elsewhere on the border than where the loss is lowest.

    Args:
        loss: of a point.
        start: where to begin.
        steps: gradients taken.
        lr: step length in the units of the point.
        project: back into what is allowed.
        on_step: called after every gradient.
    """
    point = start.detach().clone().requires_grad_(True)
    optimizer = torch.optim.Adam([point], lr=lr) if project is None else None
    best, lowest, losses = start.detach().clone(), float("inf"), []
    for step in range(steps + 1):
        with torch.enable_grad():
            value = loss(point)
        losses.append(float(value.detach()))
        if losses[-1] < lowest:
            best, lowest = point.detach().clone(), losses[-1]
        if step == steps:
            break
        (point.grad,) = torch.autograd.grad(value, point)
        if optimizer is not None:
            optimizer.step()
        elif project is not None:
            with torch.no_grad():
                unit = point.grad / point.grad.norm(dim=-1, keepdim=True).clamp(min=1e-30)
                point.copy_(project(point - lr * (1 - step / steps) * unit))
        if on_step:
            on_step()
    return best, losses
