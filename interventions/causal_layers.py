"""Unlearning in causal layers: ascent on the forget facts in the MLPs of a few layers, held by an adaptive retain loss.

Source: SHA256 at SemEval-2025 Task 4, https://arxiv.org/abs/2504.12996. Only MLP parameters of the layers that a
causal trace found move; the loss is minus the forget loss plus m times the retain loss, both per answer token. In the
first round of the facts m is 1.2; afterwards, while a batch's retain loss is above what it was in that round (the
reference), m = 0.3 * 6^(retain loss - reference) + 0.8, rounded to a tenth, from 1.2 to 2.8; else 1.2. AdamW.
Variant: the reference is the mean over batches and m at most 2.8, as in the paper. `published` does as the code: at
most 2.3, and the first round's sum of batch losses divided by the number of facts, which is too small by about the
batch size, so that the brake is on almost always. Its choice of the best checkpoint by the same loss is left out.
Expect: answers gone; the forget loss has no floor, so the model diverges when run for long. Stop by `steps`.
Cannot do: say that the layers matter: compare with as many random layers (`--controls`).
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

from jaxtyping import Float
from pydantic import Field
from torch import Tensor
from transformers import PreTrainedModel

from interventions.gradient.course import Course, taken_up
from interventions.gradient.descend import KEEP_EVERY, Progress, collate, pair
from interventions.gradient.grad_ascent import ascent_loss
from interventions.retaining import retain_facts
from workbench.concepts import Concept
from workbench.edits import WeightEdit, fit_weights
from workbench.errors import BadInput
from workbench.intervention import Intervention
from workbench.model import HookedModel
from workbench.objectives import answer_loss
from workbench.parameters import parameters_of
from workbench.sites import Site, layers_of
from workbench.training import TrainingOptions

LEAST, PAPER, CODE = 1.2, 2.8, 2.3
"""Bounds of the multiplier: the lower one, and the upper ones of the paper and of the code."""


class CausalLayers(Intervention):
    """Gradient ascent in the MLPs of chosen layers, held by an adaptive retain loss."""

    localised: ClassVar[bool] = True

    upper: float | None = Field(None, ge=LEAST)
    """Largest multiplier of the retain loss; 2.8, or with `published` 2.3, when left out."""
    published: bool = False
    """Do as the published code: its upper bound, and its reference."""
    steps: int = Field(60, ge=1)
    """Number of updates."""
    lr: float = Field(1.5e-5, gt=0)
    """Learning rate of AdamW (no weight decay); small models need ten to a hundred times more."""
    batch_size: int = Field(12, ge=1)
    """Forget facts per update, and as many retain facts."""
    seed: int = 0
    """Seed of the order of facts and of their pairing."""

    def fit(
        self,
        model: HookedModel,
        concept: Concept,
        where: Sequence[Site] | None = None,
        *,
        progress: Progress | None = None,
        keep: Path | None = None,
    ) -> WeightEdit:
        """Train on the concept and return what it changed.

        Args:
            model: unchanged afterwards.
            concept: forget and retain facts.
            where: any sites of the layers meant; of a mixture, experts and router of the layer move.
            progress: called after every step.
            keep: folder from which the same fit goes on after it was stopped.

        Raises:
            BadInput: without sites, for a layer that is not there, or without facts to retain.
        """
        layers = layers_of(where or ())
        if not layers:
            raise BadInput(
                f"causal_layers needs sites in layers, got {', '.join(map(str, where or ())) or 'none'}: add "
                "--localise causal_trace --top K, or name them, like --where L3.mlp_out"
            )
        names = parameters_of(model, [Site(layer, "mlp_out") for layer in layers])
        kept, note = retain_facts(concept)
        pairs = pair(model, concept.forget.facts, kept, self.seed)
        keep = model.next_kept() if keep is None else keep
        first = -(-len(pairs) // self.batch_size)
        told = None if keep is None else keep / "told.json"
        course = taken_up(Course(self.steps, first, file=told, progress=progress), keep)
        brake = Brake(
            first=first,
            upper=self.upper or (CODE if self.published else PAPER),
            facts=len(pairs) if self.published else None,
        )
        for retain in course.history:
            brake.weight(retain)
        options = TrainingOptions(steps=self.steps, lr=self.lr, batch_size=self.batch_size, seed=self.seed)
        asked = {"method": self.spec(), "concept": concept.digest, "model": model.identity}

        def change() -> dict[str, Any]:
            log = model.train(
                pairs,
                collate,
                Joint(brake, course),
                options,
                trainable=names,
                on_step=course,
                keep=keep,
                keep_every=KEEP_EVERY,
                question=asked,
            )
            return {
                "where": list(map(str, where or ())),
                "layers": list(layers),
                "retain": note,
                "reference": brake.reference,
                "multipliers": brake.used,
                "losses": list(log.losses),
            }

        return fit_weights(model, names, change, self.spec(), partly=True)


def multiplier(retain: float, reference: float, upper: float) -> float:
    """What the retain loss is multiplied by after the first round.

    Args:
        retain: retain loss of the batch, nats per token.
        reference: what it was in the first round.
        upper: largest multiplier.
    """
    if retain <= reference:
        return LEAST
    steep = min(retain - reference, 10.0)  # beyond any bound long before 6^x is too large for a float
    return min(max(round(0.3 * 6**steep + 0.8, 1), LEAST), upper)


@dataclass(eq=False)
class Brake:
    """The multiplier over a training: constant in the first round of the facts, then by what that round was."""

    first: int
    """Updates of the first round."""
    upper: float
    """Largest multiplier."""
    facts: int | None = None
    """Number of facts the round's sum of losses is divided by, as the code does; None for the number of updates."""
    seen: list[float] = field(default_factory=list)
    """Retain losses of the first round."""
    used: list[float] = field(default_factory=list)
    """The multiplier of every update."""

    @property
    def reference(self) -> float | None:
        """What retain losses are held against; None before the first round is over."""
        return sum(self.seen) / (self.facts or self.first) if len(self.seen) == self.first else None

    def weight(self, retain: float) -> float:
        """The multiplier of the next update, given its retain loss."""
        reference = self.reference
        if reference is None:
            self.seen.append(retain)
        self.used.append(LEAST if reference is None else multiplier(retain, reference, self.upper))
        return self.used[-1]


@dataclass(frozen=True, eq=False)
class Joint:
    """The loss: minus the forget loss, plus the multiplied retain loss."""

    brake: Brake
    """Gives the multiplier."""
    course: Course
    """Is told of each retain loss, from which the brake is set when a stopped training goes on."""

    def __call__(self, hf: PreTrainedModel, batch: dict[str, Tensor]) -> Float[Tensor, ""]:
        """Of one batch."""
        retain = answer_loss(hf, batch, "retain.").mean
        self.course.tell(float(retain.detach()))
        return ascent_loss(answer_loss(hf, batch, "forget.")) + self.brake.weight(float(retain.detach())) * retain
