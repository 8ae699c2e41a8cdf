"""SSD, selective synaptic dampening: shrink the weights that matter more to the forget facts than to everything.

Source: Foster et al. 2023, https://arxiv.org/abs/2308.07707. A weight's importance is its diagonal Fisher information,
I_f over the forget facts and I_D over all facts (forget and retain). Where I_f > alpha I_D the weight is multiplied by
min(lambda I_D / I_f, 1)^exponent. The paper squares the gradient of one example at a time (`batch_size` 1, the
default); the published code (if-loops/selective-synaptic-dampening) squares the gradient of a batch's mean loss, which
a larger `batch_size` does here too, in batches of forget and of retain facts (published: of all data, shuffled).
Expect: no training, two passes over the facts; a sharp edge between an alpha that leaves everything and one that harms
(in planted mixtures, 2.5 kept every near and far fact and 2.0 lost nearly all of them in one seed of six).
The trap: the forget facts are part of D, so I_f / I_D is never above |D| / |F|. With the published alpha of 10 nothing
can be selected once more than a tenth of D is to be forgotten; that is refused, and the refusal says what would select.
Cannot do: separate what weights share: where forget and retain facts use the same weights it removes little, or both.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch
from jaxtyping import Bool, Float
from pydantic import Field
from torch import Tensor

from interventions.gradient.descend import Progress
from interventions.retaining import retain_facts
from workbench.concepts import Concept
from workbench.edits import WeightEdit, fit_weights
from workbench.errors import BadInput
from workbench.fisher import answer_squares
from workbench.intervention import Intervention
from workbench.model import HookedModel
from workbench.regions import Region, region_of
from workbench.sites import Site


class Ssd(Intervention):
    """Dampen weights by Fisher information."""

    localised: ClassVar[bool] = True

    alpha: float = Field(10.0, gt=0, allow_inf_nan=False)
    """How many times more a weight must matter to the forget facts than to all facts (published: 10)."""
    dampening: float = Field(1.0, gt=0, allow_inf_nan=False)
    """Lambda: smaller shrinks harder, and below 1 every selected weight shrinks."""
    exponent: float = Field(1.0, gt=0, allow_inf_nan=False)
    """Power of the factor; larger shrinks harder."""
    batch_size: int = Field(1, ge=1)
    """Facts a squared gradient: 1 is the Fisher information, more is the published code's shortcut."""

    def fit(
        self,
        model: HookedModel,
        concept: Concept,
        where: Sequence[Site] | None = None,
        *,
        progress: Progress | None = None,
    ) -> WeightEdit:
        """Dampen, and return what changed.

        Args:
            model: unchanged afterwards.
            concept: forget and retain facts (or near and far ones, and the edit says so).
            where: where weights may be dampened: parts, experts, or neurons (their value vectors); None for all.
            progress: called after every batch with its number and its loss.

        Raises:
            BadInput: when there is nothing to retain, or nothing would change; it says which alpha would.
            RunError: when a loss or gradient is not a finite number.
        """
        region = region_of(model, where)
        kept, note = retain_facts(concept)
        told = _Told(progress)
        forget, n = answer_squares(model, concept.forget.facts, region.parameters, self.batch_size, told)
        full, m = answer_squares(model, kept, region.parameters, self.batch_size, told)
        share = len(concept.forget) / (len(concept.forget) + len(kept))
        for name, total in full.items():  # whatever the batches, every fact counts the same in I_D
            forget[name].div_(n)
            total.mul_((1 - share) / m).add_(forget[name], alpha=share)
        ratio = max(_highest(forget[name], full[name], region.masks.get(name)) for name in full)

        def dampen() -> dict[str, Any]:
            selected = sum(self._dampen(model, name, forget[name], full[name], region) for name in full)
            return {"retain": note, "selected": selected, "of": region.count(model), "highest_ratio": ratio} | {
                "forget_share_of_all": share,
                "where": [str(s) for s in where] if where is not None else "all parameters",
            }

        edit = fit_weights(model, region.names, dampen, self.spec())
        if not edit.changes:
            raise BadInput(self._nothing(ratio, share))
        return edit

    @torch.no_grad()
    def _dampen(self, model: HookedModel, name: str, forget: Tensor, full: Tensor, region: Region) -> int:
        """Dampen one parameter in place; how many entries were selected."""
        weight, mask = model.parameter(name), region.masks.get(name)
        chosen = selected(forget, full, self.alpha)
        chosen = chosen if mask is None else chosen & mask
        factor = dampening_factor(forget, full, self.dampening, self.exponent).to(weight.dtype)
        weight.copy_(torch.where(chosen, weight * factor, weight))
        return int(chosen.sum())

    def _nothing(self, ratio: float, share: float) -> str:
        """Why nothing changed, and what would."""
        below = f"the highest ratio of importances here is {ratio:.4g}; "
        if ratio > self.alpha:
            return (
                f"ssd would change nothing: no factor is below 1 at dampening {self.dampening:g}. Lower dampening: "
                + (below + "below it the strongest weight shrinks, and at 1 every selected one does")
            )
        why = (
            f"the forget facts are {share:.0%} of all facts, so no weight can matter more than {1 / share:.3g} times "
            "as much to them as to all of them"
            if self.alpha >= 1 / share
            else "no weight matters that much more to the forget facts"
        )
        return (
            f"ssd would change nothing: alpha {self.alpha:g} selects no weight, because {why} ({below}an alpha below "
            "it selects something). Lower alpha, add retain facts, or look elsewhere with `where`"
        )


@dataclass
class _Told:
    """Counts the batches of both passes for the caller's progress."""

    progress: Progress | None
    count: int = field(default=0)

    def __call__(self, loss: float) -> None:
        self.count += 1
        if self.progress:
            self.progress(self.count, loss)


def selected(forget: Float[Tensor, "*shape"], full: Float[Tensor, "*shape"], alpha: float) -> Bool[Tensor, "*shape"]:
    """Which weights matter more than `alpha` times as much to the forget facts as to all facts."""
    return forget > alpha * full


def dampening_factor(
    forget: Float[Tensor, "*shape"], full: Float[Tensor, "*shape"], dampening: float, exponent: float
) -> Float[Tensor, "*shape"]:
    """min(dampening * full / forget, 1)^exponent; 1 where the forget facts do not need the weight.

    The published code's `lower_bound` is this upper bound of 1.
    """
    ratio = torch.where(forget > 0, dampening * full / forget, 1.0)
    return ratio.clamp(max=1).pow(exponent)


def _highest(forget: Tensor, full: Tensor, mask: Tensor | None) -> float:
    """The highest ratio of importances in one parameter; 0 where nothing matters."""
    ratio = torch.where(forget > 0, forget / full, 0.0)
    ratio = ratio if mask is None else ratio[mask]
    return float(ratio.max()) if ratio.numel() else 0.0
