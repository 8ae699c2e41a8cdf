"""The loop every gradient intervention shares: forget facts paired with retain facts, one loss, an edit at the end.

The model is borrowed: it is trained in place, the change is recorded, and the weights are put back bit for bit.
What a method may train on to protect is `concept.retain`; where a source has none, the near and far facts are used
and the edit says so, because the audit then measures utility on facts that were trained on.
"""

import random
from abc import abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from pydantic import Field
from torch import Tensor
from transformers import PreTrainedModel

from workbench.concepts import Concept, Fact
from workbench.edits import WeightEdit, fit_weights
from workbench.errors import BadInput
from workbench.model import HookedModel
from workbench.objectives import TokenLoss, answer_loss, labelled
from workbench.parameters import parameters_of
from workbench.registry import Method
from workbench.scoring import score
from workbench.sites import Site
from workbench.tokens import Encoded
from workbench.training import TrainingOptions

Progress = Callable[[int, float], None]
"""Called with the step (from 1) and its loss."""


class GradientMethod(Method):
    """Options every gradient intervention has, and the one `fit`; a method adds its forget loss."""

    steps: int = Field(60, ge=1)
    """Number of updates."""
    lr: float = Field(1e-5, gt=0)
    """Learning rate of AdamW (no weight decay); 1e-5 suits models of billions, small ones need ten times more."""
    batch_size: int = Field(16, ge=1)
    """Forget facts per update; with a retain loss as many retain facts join them."""
    retain_weight: float = Field(1.0, ge=0)
    """Weight of the ordinary loss on retain facts; 0 leaves it out."""
    seed: int = 0
    """Seed of the order of facts and of their pairing."""

    @abstractmethod
    def forget_loss(self, forget: TokenLoss, original: Float[Tensor, " row"]) -> Float[Tensor, ""]:
        """What the method makes smaller on the forget facts.

        Args:
            forget: token losses of the model being trained.
            original: summed answer log-probability under the model before training, nats.
        """

    def fit(
        self,
        model: HookedModel,
        concept: Concept,
        where: Sequence[Site] | None = None,
        *,
        progress: Progress | None = None,
    ) -> WeightEdit:
        """Train on the concept and return what it changed.

        Args:
            model: unchanged afterwards.
            concept: forget and retain facts.
            where: whole parts that may move (`L3.mlp_out`); None for all parameters.
            progress: called after every step.

        Raises:
            BadInput: for sites inside a tensor, or a retain loss without facts to retain.
        """
        names = parameters_of(model, where)
        kept, note = retain_facts(concept) if self.retain_weight else ((), "")
        pairs = pair(model, concept.forget.facts, kept, self.seed)
        options = TrainingOptions(steps=self.steps, lr=self.lr, batch_size=self.batch_size, seed=self.seed)

        def change() -> dict[str, Any]:
            log = model.train(pairs, collate, self._loss, options, trainable=names, on_step=progress)
            return {
                "where": [str(s) for s in where] if where is not None else "all parameters",
                "retain": note,
                "losses": list(log.losses),
            }

        return fit_weights(model, names, change, self.spec())

    def _loss(self, hf: PreTrainedModel, batch: dict[str, Tensor]) -> Float[Tensor, ""]:
        value = self.forget_loss(answer_loss(hf, batch, "forget."), batch["original"])
        return value + self.retain_weight * answer_loss(hf, batch, "retain.").mean if self.retain_weight else value


@dataclass(frozen=True)
class Pair:
    """A forget fact, what the original model gave it, and a retain fact to go with it."""

    forget: Encoded
    original: float
    """Log-probability of the forget answer under the model before training, nats."""
    retain: Encoded | None


def retain_facts(concept: Concept) -> tuple[tuple[Fact, ...], str]:
    """The facts a method may train on to protect, and where they come from.

    Raises:
        BadInput: when the concept has none.
    """
    if len(concept.retain):
        return concept.retain.facts, "retain facts, disjoint from the near and far facts that are measured"
    facts = (*concept.near.facts, *concept.far.facts)
    if not facts:
        raise BadInput(
            f"{concept.name} has no retain, near or far facts, so there is nothing to retain: add some, or set "
            "retain_weight=0"
        )
    return facts, "the near and far facts themselves, because the concept has no retain set: utility is flattered"


def pair(model: HookedModel, forget: Sequence[Fact], retain: Sequence[Fact], seed: int) -> list[Pair]:
    """Every forget fact as often as needed for each retain fact to be used once."""
    original = score(model, forget).logprob.tolist()
    asked, guarded = model.encode(forget), model.encode(retain)
    if not guarded:
        return [Pair(fact, value, None) for fact, value in zip(asked, original, strict=True)]
    random.Random(seed).shuffle(guarded)
    length = max(len(asked), len(guarded))
    return [Pair(asked[i % len(asked)], original[i % len(asked)], guarded[i % len(guarded)]) for i in range(length)]


def collate(pairs: list[Pair]) -> dict[str, Tensor]:
    """`forget.*` and, when there are any, `retain.*` tensors, and the original log-probabilities."""
    batch = {f"forget.{key}": value for key, value in labelled([p.forget for p in pairs]).items()}
    guarded = [p.retain for p in pairs if p.retain is not None]
    if guarded:
        batch |= {f"retain.{key}": value for key, value in labelled(guarded).items()}
    return {**batch, "original": torch.tensor([p.original for p in pairs])}
