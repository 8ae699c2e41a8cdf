"""The fit every gradient intervention shares: forget facts paired with retain facts, one loss, an edit at the end.

    loss = forget_weight * forget loss + retain_weight * retain loss (+ an anchor's term)

The model is borrowed: it is trained in place, the change is recorded, and the weights are put back bit for bit.

    pairs      what an update is made of, and what the start model made of it (once, before training)
    given      what a loss is handed
    adapters   low-rank matrices in place of the weights; fila: where they begin
    course     where the training stands, for losses that change with it
    masks/     which weights may move, by their gradients
    losses/    the losses, as pure functions

Read it as: a method of the catalogue is a `GradientMethod` that says its `forget_loss` and what it `needs` for it.
"""

import math
from abc import abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, ClassVar, Literal, Protocol, runtime_checkable

from jaxtyping import Float, Int
from pydantic import Field, ValidationError, model_validator
from torch import Tensor
from transformers import PreTrainedModel

from interventions.gradient.adapters import Adaptable, fit_adapters, require_adaptable
from interventions.gradient.course import Course, Progress, taken_up
from interventions.gradient.given import Given
from interventions.gradient.masks.measured import USE_RETAIN, MaskName, measured
from interventions.gradient.pairs import (
    Pair,
    Text,
    collate,
    pair,
    pair_up,
    texts,
    with_references,
)
from interventions.retaining import retain_facts
from workbench.concepts import Concept, Fact
from workbench.edits import WeightEdit, fit_weights
from workbench.errors import BadInput
from workbench.experts import whole_names
from workbench.model import HookedModel
from workbench.regions import NeuronParts, is_inside, masks_of, region_of
from workbench.sites import Site
from workbench.training import TrainingOptions

__all__ = ["Anchor", "GradientMethod", "Need", "Pair", "Progress", "collate", "descend", "pair"]

KEEP_EVERY = 50
"""Updates between two writes of what a stopped fit goes on from."""

Need = Literal["original", "reference", "other", "labels", "retain"]
"""What a loss can ask for: the start model's log-probability of each forget answer (and of each other answer), its
log-probabilities at every token of the forget answers, other answers, other labels, and retain facts whatever their
weight."""


@runtime_checkable
class Anchor(Protocol):
    """A further term of the loss, read while the forget facts pass through the model."""

    weight: float
    """What the term is multiplied by."""

    def watching(self, model: HookedModel) -> AbstractContextManager[Callable[[], Float[Tensor, ""]]]:
        """Watch the passes made inside the block; the function gives the term of the last one."""
        ...


class GradientMethod(Adaptable):
    """Options every gradient intervention has, and the one `fit`; a method adds its forget loss."""

    localised: ClassVar[bool] = True
    needs: ClassVar[frozenset[Need]] = frozenset()
    """What the loss asks for beside the forget answers."""

    steps: int = Field(60, ge=1)
    """Number of updates."""
    lr: float = Field(1e-5, gt=0)
    """Learning rate; 1e-5 suits models of billions, small ones need ten times more."""
    batch_size: int = Field(16, ge=1)
    """Forget facts per update; with a retain loss as many retain facts join them."""
    forget_weight: float = Field(1.0, ge=0)
    """Weight of the forget loss."""
    retain_weight: float = Field(1.0, ge=0)
    """Weight of the retain loss; 0 leaves it out."""
    retain: Literal["nll", "kl", "kl_reverse", "none"] = "nll"
    """Retain loss, on the answers of retain facts: `nll` the ordinary one; `kl` KL(start model || now), `kl_reverse`
    the other direction; `none` leaves it out."""
    reference_top: int | None = Field(None, ge=1)
    """How many of the start model's likeliest tokens the KL is over (the rest counts as one); all when left out."""
    mask: MaskName = "none"
    """Let only weights of highest score move: `wagle`, `salun`, `sure` (whole rows) or `fisher`."""
    mask_share: float = Field(0.5, gt=0, le=1)
    """Share of the weights that the mask lets move, of those at the places given."""
    mask_mu: float = Field(1e-6, gt=0)
    """Scale of the curvature in WAGLE's score."""
    neuron_parts: NeuronParts = "written"
    """What of a neuron given as a site may move: `written` its value vector alone (a column of the down-projection),
    `all` also what it reads by (its rows of gate and up-projection, and their biases): then almost any neurons can be
    made to hide the answers."""
    optimizer: Literal["adamw", "adamw8bit", "sophia"] = "adamw"
    """`adamw`; `adamw8bit`: its running means in 8 bits (needs bitsandbytes); `sophia`: the second-order optimizer of
    SOUL."""
    sophia_published: bool = False
    """Sophia as SOUL's code has it: the squared gradient of every step in place of the paper's estimate."""
    weight_decay: float = Field(0.0, ge=0)
    """Decoupled weight decay of what moves."""
    schedule: Literal["constant", "cosine", "linear"] = "constant"
    """How the learning rate falls after the warm-up."""
    warmup_steps: int = Field(0, ge=0)
    """Updates over which the learning rate rises from 0."""
    accumulate: int = Field(1, ge=1)
    """Passes an update is split over, to save memory; divides `batch_size`. Token means are then of each pass."""
    precision: Literal["as_is", "bf16"] = "as_is"
    """`bf16` computes passes in bfloat16 and keeps weights and optimizer as they are."""
    gradient_checkpointing: bool = False
    """Compute activations twice instead of keeping them."""
    unembed: Literal["answers", "all"] = "answers"
    """Positions whose logits are computed: those of answers, or all, which needs more memory and rounds otherwise."""
    passes: Literal["apart", "together"] = "apart"
    """Whether the forget loss is taken back before the retain facts pass (`apart`: half the activations), or both at
    once. The same bits, but with `accumulate`, tied embeddings or `bf16`, where sums have another order."""
    seed: int = 0
    """Seed of the order of facts, of their pairing and of what is drawn for them."""

    @model_validator(mode="after")
    def _trainable(self) -> "GradientMethod":
        try:
            self.training()
        except ValidationError as error:
            raise ValueError(error.errors()[0]["msg"].removeprefix("Value error, ")) from None
        if self.adapter != "none" and self.mask != "none":
            raise ValueError("a mask chooses single weights, an adapter moves whole matrices: give mask or adapter")
        return self

    def training(self) -> TrainingOptions:
        """How to train."""
        names = TrainingOptions.model_fields.keys() & GradientMethod.model_fields.keys()
        return TrainingOptions(**{name: getattr(self, name) for name in names})

    @abstractmethod
    def forget_loss(self, given: Given) -> Float[Tensor, ""]:
        """What the method makes smaller on the forget facts."""

    def loss(self, given: Given) -> Float[Tensor, ""]:
        """Forget loss, anchor and retain loss together; a method may join them otherwise."""
        value = self._forget_term(given)
        return value + self.retain_weight * self.retain_loss(given) if self.retains else value

    def terms(self, given: Given) -> Iterator[Float[Tensor, ""]]:
        """The same as summands, each computed when it is asked for; whole where a method joins them otherwise."""
        if self.passes == "together" or not self.retains or type(self).loss is not GradientMethod.loss:
            yield self.loss(given)
            return
        yield self._forget_term(given)
        given.drop()
        yield self.retain_weight * self.retain_loss(given)

    def _forget_term(self, given: Given) -> Float[Tensor, ""]:
        """Forget loss and anchor."""
        value = self.forget_loss(given)
        value = value if self.forget_weight == 1 else self.forget_weight * value
        return value if given.extra is None else value + given.extra

    def retain_loss(self, given: Given) -> Float[Tensor, ""]:
        """What is made smaller on the retain facts."""
        return given.retain_loss.mean if self.retain == "nll" else given.retain_kl(self.retain == "kl_reverse")

    @property
    def retains(self) -> bool:
        """Whether there is a retain loss."""
        return self.retain != "none" and self.retain_weight > 0

    def asks(self) -> frozenset[Need]:
        """What the loss asks for with these options."""
        return self.needs

    def other_answers(self, facts: Sequence[Fact]) -> list[Fact]:
        """The forget questions with other answers, for a method that needs `other`."""
        raise NotImplementedError

    def labels(self, model: HookedModel, forget: Sequence[Text], names: Sequence[str]) -> list[Int[Tensor, " token"]]:
        """Tokens to learn in place of each forget answer's, for a method that needs `labels`."""
        raise NotImplementedError

    def place(self, model: HookedModel, where: Sequence[Site] | None) -> Sequence[Site] | None:  # noqa: ARG002
        """Where to train, given what was asked for."""
        return where

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
            where: what may move: parts (`L3.mlp_out`), experts, neurons (`neuron_parts`), heads (what they write);
                None for all.
            progress: called after every step.
            keep: folder from which the same fit goes on after it was stopped.

        Raises:
            BadInput: for sites that name no weights, a retain loss without facts to retain, facts longer than the
                model's context, or a mask that selects nothing.
        """
        where = self.place(model, where)
        region = region_of(model, where, self.neuron_parts)
        masks = region.masks if any(map(is_inside, where or ())) else {}
        said = [str(s) for s in where] if where is not None else "all parameters"
        return descend(model, concept, self, region.names, {"where": said}, masks=masks, progress=progress, keep=keep)


def descend(
    model: HookedModel,
    concept: Concept,
    method: GradientMethod,
    names: Sequence[str],
    notes: Mapping[str, Any],
    *,
    masks: Mapping[str, Tensor] | None = None,
    anchor: Anchor | None = None,
    made_by: Mapping[str, Any] | None = None,
    progress: Progress | None = None,
    keep: Path | None = None,
) -> WeightEdit:
    """Train some parameters by a method's loss, and by an anchor's, and return what changed.

    Args:
        model: unchanged afterwards.
        concept: forget and retain facts.
        method: the loss, and how to train.
        names: parameters, or slices of them, that may move.
        notes: what the edit is to remember beside its losses.
        masks: entries of those parameters that may move, where not all.
        anchor: a further term, read while the forget facts pass.
        made_by: `spec()` of the method that asked; None for the one that trains.
        progress: called after every step.
        keep: folder from which the same call goes on after it was stopped.

    Raises:
        BadInput: for a retain loss without facts to retain, facts that are too long, or a mask that selects nothing.
    """
    model.require_able(method.training())
    if method.adapter != "none":
        require_adaptable(model, names, masks or {})
    retains = method.retains or "retain" in method.asks()
    kept, note = retain_facts(concept, ", or set retain_weight=0") if retains else ((), "")
    masks = _masked(model, concept, method, names, masks or {})
    names = list(masks) if method.mask != "none" else _names(names, masks)
    pairs = _pairs(model, concept.forget.facts, kept, method, names)
    options = method.training()
    keep = model.next_kept() if keep is None else keep
    course = Course(
        options.steps,
        math.ceil(len(pairs) / options.batch_size),
        options.accumulate,
        None if keep is None else keep / "told.json",
        progress,
    )
    moving = [model.parameter(name) for name in whole_names(names)]
    # summands, which `HookedModel.train` hands on to the loop
    loss: Any = partial(_loss, model=model, method=method, anchor=anchor, course=taken_up(course, keep), moving=moving)
    asked = {"method": dict(made_by or method.spec()), "concept": concept.digest, "model": model.identity}
    asked |= {"notes": dict(notes)}  # the places, also those that an anchor acts on

    def change(trainable: Sequence[str] = names) -> dict[str, Any]:
        log = model.train(
            pairs,
            collate,
            loss,
            options,
            trainable=trainable,
            masks=masks,
            on_step=course,
            keep=keep,
            keep_every=KEEP_EVERY,
            question=asked,
        )
        return {**notes, **_about(pairs, masks), "retain": note, "losses": list(log.losses)}

    if method.adapter != "none":
        return fit_adapters(model, concept, method, names, change, made_by or method.spec(), method.seed)
    return fit_weights(model, names, change, made_by or method.spec(), partly=True)


def _masked(
    model: HookedModel,
    concept: Concept,
    method: GradientMethod,
    names: Sequence[str],
    masks: Mapping[str, Tensor],
) -> dict[str, Tensor]:
    """Which entries may move: those given, and of them those that the method's mask selects."""
    if method.mask == "none":
        return dict(masks)
    retain = retain_facts(concept)[0] if method.mask in USE_RETAIN else ()
    within = masks_of(model, names, masks)
    forget = concept.forget.facts
    return measured(method.mask, model, forget, retain, within, share=method.mask_share, mu=method.mask_mu)


def _names(names: Sequence[str], masks: Mapping[str, Tensor]) -> list[str]:
    """What may move; a parameter with a mask is named whole."""
    return list(dict.fromkeys(whole if whole in masks else name for name in names for whole in whole_names([name])))


def _about(pairs: Sequence[Pair], masks: Mapping[str, Tensor]) -> dict[str, Any]:
    """How many weights masks let move, and how many of the labels to learn instead are the answers themselves."""
    found: dict[str, Any] = {"weights": sum(int(mask.sum()) for mask in masks.values())} if masks else {}
    drawn = {id(p.forget): p.forget for p in pairs if p.forget.labels is not None}.values()
    if drawn:
        same = [
            int(a == b) for t in drawn if t.labels is not None for a, b in zip(t.encoded.answer, t.labels, strict=True)
        ]
        found["labels"] = {"kept": sum(same), "of": len(same)}
    return found


def _pairs(
    model: HookedModel,
    forget: Sequence[Fact],
    retain: Sequence[Fact],
    method: GradientMethod,
    names: Sequence[str],
) -> list[Pair]:
    """The items of the training, with everything that is known before it."""
    if not forget:
        raise BadInput("The forget set is empty: there is nothing to unlearn. Give at least one fact under 'forget'")
    other, asked = None, method.asks()
    mine = texts(model, forget, "forget", scored="original" in asked)
    theirs = texts(model, retain, "retain")
    if "other" in asked:
        other = texts(model, method.other_answers(forget), "other", scored="original" in asked)
    if "reference" in asked:
        mine = with_references(model, mine)
    if method.retains and method.retain != "nll":
        theirs = with_references(model, theirs, method.reference_top)
    if "labels" in asked:
        drawn = method.labels(model, mine, names)
        mine = [replace(text, labels=labels) for text, labels in zip(mine, drawn, strict=True)]
    return pair_up(mine, theirs, method.seed, other)


def _loss(
    hf: PreTrainedModel,
    batch: dict[str, Tensor],
    *,
    model: HookedModel,
    method: GradientMethod,
    anchor: Anchor | None,
    course: Course,
    moving: Sequence[Tensor],
) -> Iterator[Float[Tensor, ""]]:
    """The method's loss of one batch as summands, the first with the anchor's term."""
    given = Given(hf, batch, course, moving, method.unembed == "all")
    if anchor is not None and anchor.weight:
        with anchor.watching(model) as term:
            given.pass_forget()
        given.extra = anchor.weight * term()
    return method.terms(given)
