"""The loop every gradient intervention shares: forget facts paired with retain facts, one loss, an edit at the end.

The model is borrowed: it is trained in place, the change is recorded, and the weights are put back bit for bit.
What a method may train on to protect is `concept.retain`; where a source has none, the near and far facts are used
and the edit says so, because the audit then measures utility on facts that were trained on.
"""

import random
from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, ClassVar, Protocol, runtime_checkable

import torch
from jaxtyping import Float
from pydantic import Field
from torch import Tensor
from transformers import PreTrainedModel

from workbench.concepts import Concept, Fact
from workbench.edits import WeightEdit, fit_weights
from workbench.errors import BadInput
from workbench.intervention import Intervention
from workbench.model import HookedModel
from workbench.objectives import TokenLoss, answer_loss, labelled
from workbench.parameters import parameters_of
from workbench.scoring import score
from workbench.sites import Site
from workbench.tokens import Encoded
from workbench.training import TrainingOptions

Progress = Callable[[int, float], None]
"""Called with the step (from 1) and its loss."""


@runtime_checkable
class Anchor(Protocol):
    """A further term of the loss, read while the forget facts pass through the model."""

    weight: float
    """What the term is multiplied by."""

    def watching(self, model: HookedModel) -> AbstractContextManager[Callable[[], Float[Tensor, ""]]]:
        """Watch the passes made inside the block; the function gives the term of the last one."""
        ...


class GradientMethod(Intervention):
    """Options every gradient intervention has, and the one `fit`; a method adds its forget loss."""

    localised: ClassVar[bool] = True
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
        keep: Path | None = None,
    ) -> WeightEdit:
        """Train on the concept and return what it changed.

        Args:
            model: unchanged afterwards.
            concept: forget and retain facts.
            where: whole parts that may move (`L3.mlp_out`); None for all parameters.
            progress: called after every step.
            keep: folder from which the same fit goes on after it was stopped.

        Raises:
            BadInput: for sites inside a tensor, or a retain loss without facts to retain.
        """
        names = parameters_of(model, where)
        said = [str(s) for s in where] if where is not None else "all parameters"
        return descend(model, concept, self, names, {"where": said}, progress=progress, keep=keep)


def descend(
    model: HookedModel,
    concept: Concept,
    method: GradientMethod,
    names: Sequence[str],
    notes: Mapping[str, Any],
    *,
    anchor: Anchor | None = None,
    made_by: Mapping[str, Any] | None = None,
    progress: Progress | None = None,
    keep: Path | None = None,
) -> WeightEdit:
    """Train some parameters by a method's loss, and by an anchor's, and return what changed.

    Args:
        model: unchanged afterwards.
        concept: forget and retain facts.
        method: the forget loss, the weight of the retain loss, and how to train.
        names: parameters, or slices of them, that may move.
        notes: what the edit is to remember beside its losses.
        anchor: a further term, read while the forget facts pass.
        made_by: `spec()` of the method that asked; None for the one that trains.
        progress: called after every step.
        keep: folder from which the same call goes on after it was stopped.

    Raises:
        BadInput: for a retain loss without facts to retain.
    """
    kept, note = retain_facts(concept) if method.retain_weight else ((), "")
    pairs = pair(model, concept.forget.facts, kept, method.seed)
    options = TrainingOptions(steps=method.steps, lr=method.lr, batch_size=method.batch_size, seed=method.seed)
    loss = partial(_loss, model=model, method=method, anchor=anchor)
    asked = {"method": dict(made_by or method.spec()), "concept": concept.digest, "model": model.identity}
    resumed: dict[str, Any] = {} if keep is None else {"keep": keep, "question": asked}

    def change() -> dict[str, Any]:
        log = model.train(pairs, collate, loss, options, trainable=names, on_step=progress, **resumed)
        return {**notes, "retain": note, "losses": list(log.losses)}

    return fit_weights(model, names, change, made_by or method.spec())


def _loss(
    hf: PreTrainedModel,
    batch: dict[str, Tensor],
    *,
    model: HookedModel,
    method: GradientMethod,
    anchor: Anchor | None,
) -> Float[Tensor, ""]:
    """Forget loss + retain weight * retain loss + anchor weight * anchor."""
    if anchor is None or not anchor.weight:
        value = method.forget_loss(answer_loss(hf, batch, "forget."), batch["original"])
    else:
        with anchor.watching(model) as term:
            forget = answer_loss(hf, batch, "forget.")
        value = method.forget_loss(forget, batch["original"]) + anchor.weight * term()
    if method.retain_weight:
        value = value + method.retain_weight * answer_loss(hf, batch, "retain.").mean
    return value


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
