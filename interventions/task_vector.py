"""Task-vector negation: train the model further on the forget facts, then go the same way backwards.

Source: Ilharco et al. 2022, https://arxiv.org/abs/2212.04089: theta - alpha (theta_tuned - theta). The arithmetic is in
float32 and rounded once. The code of MUSE (swj0419/muse_bench, baselines/task_vector.py) loads all models in bfloat16,
so that its vectors are rounded before they are used: a variant that is not offered here.
Expect: facts that are not yet learnt by heart leave a clear direction. A model that already gives every answer with
certainty has next to no gradient left, so what is negated is largely the optimizer's; alpha must then be searched.
Choose the largest alpha that keeps the near and far facts (the paper: 95 % of the control task).
Cannot do: spare what shares the direction: there is no retain loss, and neighbours often fall with the facts.
"""

from collections.abc import Sequence
from typing import ClassVar

import torch
from jaxtyping import Float
from pydantic import Field
from torch import Tensor

from interventions.gradient.descend import Progress
from workbench.concepts import Concept
from workbench.edits import Change, WeightEdit, kept
from workbench.errors import BadInput, RunError
from workbench.intervention import Intervention
from workbench.model import HookedModel
from workbench.objectives import answer_nll, labelled
from workbench.regions import only, region_of
from workbench.sites import Site
from workbench.training import TrainingOptions


class TaskVector(Intervention):
    """Subtract what training on the forget facts adds."""

    localised: ClassVar[bool] = True

    steps: int = Field(40, ge=1)
    """Number of updates on the forget facts."""
    lr: float = Field(1e-5, gt=0, allow_inf_nan=False)
    """Learning rate of AdamW (no weight decay); 1e-5 suits models of billions, small ones need far more."""
    alpha: float = Field(1.0, gt=0, allow_inf_nan=False)
    """How far to go backwards, in lengths of the task vector."""
    batch_size: int = Field(16, ge=1)
    """Forget facts an update."""
    seed: int = 0
    """Seed of the order of facts."""

    def fit(
        self,
        model: HookedModel,
        concept: Concept,
        where: Sequence[Site] | None = None,
        *,
        progress: Progress | None = None,
    ) -> WeightEdit:
        """Train on the forget facts, negate, and return what changed.

        Args:
            model: unchanged afterwards.
            concept: forget facts; nothing else is used.
            where: what may move: parts, experts, or neurons (their value vectors); None for all.
            progress: called after every step of the training.

        Raises:
            BadInput: when nothing moved.
            RunError: when a loss or an edited weight is not a finite number.
        """
        region, identity = region_of(model, where), model.identity
        options = TrainingOptions(steps=self.steps, lr=self.lr, batch_size=self.batch_size, seed=self.seed)
        facts = model.encode(concept.forget.facts)
        with kept(model, region.names) as before:
            with only(model, region):
                log = model.train(facts, labelled, answer_nll, options, trainable=region.names, on_step=progress)
            tuned = {name: model.parameter(name).detach() for name in before}
            found = {n: Change.between(old, self._negated(n, old, tuned[n])) for n, old in before.items()}
        changes = {name: change for name, change in found.items() if change is not None}
        if not changes:
            raise BadInput(
                f"task_vector would change nothing: training moved no weight of {model.name} at learning rate "
                f"{self.lr:g}; raise lr or steps"
            )
        notes = {"where": [str(s) for s in where] if where is not None else "all parameters"}
        return WeightEdit(identity, self.spec(), notes={**notes, "losses": list(log.losses)}, changes=changes)

    def _negated(self, name: str, base: Tensor, tuned: Tensor) -> Tensor:
        new = negated(base, tuned, self.alpha)
        if not new.isfinite().all():
            raise RunError(f"{name} would hold numbers that are not finite; lower alpha ({self.alpha:g}) or lr")
        return torch.where(tuned == base, base, new)  # what did not move keeps its very bits


def negated(
    base: Float[Tensor, "*shape"],
    tuned: Float[Tensor, "*shape"],
    alpha: float,
    target: Float[Tensor, "*shape"] | None = None,
) -> Float[Tensor, "*shape"]:
    """The target less alpha (tuned - base) in float32 or better, in the target's dtype.

    Args:
        base: before training on the task.
        tuned: after it.
        alpha: how far to go backwards.
        target: what the vector is taken from; None for `base`.
    """
    target = base if target is None else target
    exact = torch.promote_types(base.dtype, torch.float32)
    return (target.to(exact) - alpha * (tuned.to(exact) - base.to(exact))).to(target.dtype)
