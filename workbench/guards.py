"""`Worn`: a guard while it is on a model: where it acts in each batch, what it rewrites there, what it says.

A guard with a trigger judges the batch in a pass of its own, with only the guards below it on, and then acts in the
pass that was asked for. So it sees whole rows only: passes that start late or take up a prefix are refused.
Read it as: put on by `HookEdit.on`; used by `workbench.model_run` and `workbench.scoring`.
"""

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from workbench.hooks import Rewrite
from workbench.sites import Site
from workbench.speech import Heard, Speech
from workbench.tokens import Batch
from workbench.triggers import Trigger

if TYPE_CHECKING:
    from workbench.model import HookedModel


@dataclass(frozen=True, eq=False)
class There:
    """A rewrite that acts only on some tokens of the batch."""

    where: Bool[Tensor, "row pos"]
    change: Rewrite

    def __call__(self, value: Tensor) -> Tensor:
        """The changed value there, the given one elsewhere."""
        where = self.where.to(value.device)
        return torch.where(where if value.ndim == 2 else where[..., None], self.change(value), value)


@dataclass(eq=False)
class Worn:
    """A guard that is on."""

    trigger: Trigger | None
    """Which rows it acts on; None for all."""
    rewrites: Sequence[tuple[Site, Rewrite]] = ()
    """What it does inside."""
    speech: Speech | None = None
    """What it does to the logits."""
    digest: str = ""
    """The edit's."""
    _last: "tuple[Batch, str, Tensor] | None" = field(default=None, repr=False)

    def told(self, model: "HookedModel", batch: Batch) -> Bool[Tensor, "row pos"]:
        """Where it acts in a batch; one judgement serves the pass and what is then said of it."""
        if self.trigger is None:
            return batch.mask
        if self._last is None or self._last[0] is not batch or self._last[1] != model.identity:
            with below(model, self):
                self._last = (batch, model.identity, self.trigger.told(model, batch))
        return self._last[2]

    def acting(self, model: "HookedModel", batch: Batch) -> list[tuple[Site, Rewrite]]:
        """Its rewrites as they are to act in this batch."""
        if self.trigger is None or not self.rewrites:
            return list(self.rewrites)
        told = self.told(model, batch)
        return [(site, There(told, change)) for site, change in self.rewrites]

    def said(
        self,
        model: "HookedModel",
        batch: Batch,
        logits: Float[Tensor, "n vocab"],
        row: Int[Tensor, " n"],
        position: Int[Tensor, " n"],
    ) -> Float[Tensor, "n vocab"]:
        """Its logits at some positions."""
        if self.speech is None:
            return logits
        told = self.told(model, batch)
        with below(model, self):
            return self.speech(logits, Heard(model, batch, told, row.cpu(), position.cpu()))


@contextlib.contextmanager
def below(model: "HookedModel", worn: Worn) -> Iterator[None]:
    """The model with only the guards under this one."""
    before = model.guards
    model.guards = before[: next(i for i, guard in enumerate(before) if guard is worn)]
    try:
        yield
    finally:
        model.guards = before


def spoken(
    model: "HookedModel",
    batch: Batch,
    logits: Float[Tensor, "n vocab"],
    row: Int[Tensor, " n"],
    position: Int[Tensor, " n"],
) -> Float[Tensor, "n vocab"]:
    """What the model says at some positions with its guards on, from what it would say without their speech."""
    for guard in model.guards:
        logits = guard.said(model, batch, logits, row, position)
    return logits
