"""The one training loop: demo models, gradient unlearning and the relearning attack all go through `train`.

It is `transformers.Trainer` with everything that leaves traces turned off: no files, no reports, no progress bars, no
change to the global random state; afterwards every `requires_grad` flag and the train/eval mode are as before. The
loss is the caller's function, the items are the caller's, and only the named parameters move.

    training_options       TrainingOptions: how a model is trained
    training_loop          the trainer, and what happens between two steps
    training_leaves        what the optimizer holds, so that nothing else can move
    training_optimizers    AdamW, Muon, 8-bit AdamW by name; training_sophia: Sophia
    training_stop          StopRule: when to end early, and which parameters to leave
    training_resume        the folder from which a killed training goes on; training_file: the file in it
    training_memory        bfloat16 passes, activations computed twice
    training_processes     several processes that hold the whole model; training_sharded: or shares of it (FSDP)
    training_randomness    random states

Read it as: `log = train(model, items, collate, loss, options)`; `log.losses[i]` is the loss of step i + 1, read before
that step's update. Does not show: whether the model got better; measure it with `evaluate_at` and `evaluate`.
"""

import tempfile
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler
from transformers import PreTrainedModel, PrinterCallback

from workbench.errors import BadInput, Diverged, did_you_mean
from workbench.experts import slices_of, whole_names
from workbench.training_leaves import Leaves
from workbench.training_loop import Batch, Cycle, Loop, Loss, Watch, settings
from workbench.training_memory import checkpointed, require_memory_options
from workbench.training_optimizers import optimizer_of, require_optimizer, scheduler_of
from workbench.training_options import TrainingOptions
from workbench.training_randomness import undisturbed_randomness
from workbench.training_resume import Keeper, discard, question_of
from workbench.training_sharded import Gathered, gather, require_shardable, sharded, started
from workbench.training_stop import Course, StopRule

__all__ = [
    "Batch",
    "Loss",
    "StopRule",
    "TrainingLog",
    "TrainingOptions",
    "discard",
    "require_able",
    "train",
    "undisturbed_randomness",
]


@dataclass(frozen=True)
class TrainingLog:
    """What happened during training."""

    steps: tuple[int, ...]
    """Number of each update, from 1."""
    losses: tuple[float, ...]
    """Loss of each update's batch, before the update."""
    evaluations: tuple[tuple[int, float], ...] = ()
    """Step and value of each evaluation that gave a number."""
    stopped: int | None = None
    """Step after which the stop rule ended training; None when it did not."""
    why: str = ""
    """The rule's reason."""
    best: int | None = None
    """Step of the best evaluation by the stop rule; with `StopRule.best` the model has the parameters of that step."""


def train(
    model: PreTrainedModel,
    items: Sequence[Any],
    collate: Callable[[list[Any]], Batch],
    loss: Loss,
    options: TrainingOptions,
    *,
    trainable: Collection[str] | None = None,
    masks: Mapping[str, Tensor] | None = None,
    on_step: Callable[[int, float], None] | None = None,
    evaluate_at: Collection[int] = (),
    evaluate: Callable[[int], float | None] | None = None,
    stop: StopRule | None = None,
    keep: Path | None = None,
    keep_every: int = 50,
    question: Mapping[str, Any] | None = None,
) -> TrainingLog:
    """Change `model` in place so that `loss(model, collate(items))` falls.

    On one machine the same call gives the same parameters, killed and resumed or not.

    Args:
        model: changed in place; what may not move stays bit-identical.
        items: what to train on.
        collate: some items -> a batch.
        loss: the model and a batch -> what to make smaller.
        options: how.
        trainable: what may move: parameters, or one expert's slice (`...experts.down_proj[5]`). None: all; with
            `masks`, those that have one.
        masks: parameter -> which of its entries may move (bool, of its shape); others of `trainable` move whole.
        on_step: called after each update with the step (from 1) and its loss.
        evaluate_at: steps after which to evaluate (0: before the first).
        evaluate: called with such a step, the model in eval mode; gives a number or None.
        stop: when to stop early by those numbers, and which parameters to leave.
        keep: folder that a killed training goes on from; the same call again resumes (`workbench.training_resume`).
            It holds the result when all is done; `discard(keep)` removes it.
        keep_every: updates between two writes to `keep`.
        question: with `keep`: what else the loss depends on, in JSON form, so that another training is not taken for
            this one.

    Raises:
        BadInput: when there are no items, a parameter, mask or expert to train does not exist or is empty, the
            hardware lacks what the options ask for, or `keep` holds another training.
        Diverged: when the loss or a gradient is no longer a finite number; the parameters are those that `keep` holds
            from before, or, where it holds none, those before that step.
    """
    _require(items, stop, evaluate, evaluate_at, keep_every)
    require_able(model, options)
    if options.processes == "fsdp" and started() > 1:
        require_shardable(options, {*(masks or {}), *slices_of(trainable or ())}, keep is not None)
        shares = sharded(model)
        log = train(
            shares,
            items,
            collate,
            loss,
            options.model_copy(update={"processes": "whole"}),
            trainable=trainable,
            on_step=on_step,
            evaluate_at=evaluate_at,
            evaluate=evaluate and Gathered(shares, model, trainable, evaluate),
            stop=stop,
        )
        gather(shares, model, trainable)
        return log
    with undisturbed_randomness(), _only(model, trainable, masks or {}) as leaves:
        keeper = None
        if keep is not None:
            asked = question_of(model, items, collate, loss, options, leaves, evaluate_at, stop, question or {})
            keeper = Keeper(keep, asked)
        resumed = keeper.load() if keeper else None
        course, losses = Course(stop), list[float]()
        if resumed is not None:
            leaves.load(resumed.trained)
            losses += resumed.losses
            for step, value in resumed.evaluations:
                course.note(step, value)
        if resumed is None or not resumed.finished:
            with _looping(model, items, collate, loss, options, losses, leaves) as (loop, optimizer, scheduler):
                if keeper and loop.processes > 1:
                    raise BadInput("`keep` is for one process: leave it out, or start one process")
                watch = Watch(loop, leaves, optimizer, scheduler, course, set(evaluate_at), keep_every)
                watch.on_step, watch.evaluate, watch.keeper = on_step, evaluate, keeper
                watch.take_up(resumed)
                try:
                    watch.run()
                except Diverged as error:
                    _take_back(leaves, keeper, error)
                    raise
    stopped = len(losses) if course.why else None
    return TrainingLog(
        tuple(range(1, len(losses) + 1)), tuple(losses), tuple(course.values), stopped, course.why, course.best
    )


def require_able(model: PreTrainedModel, options: TrainingOptions) -> None:
    """Refuse what the hardware, the model or the installed packages cannot do; `train` asks this first.

    Raises:
        BadInput: saying which and what to do.
    """
    require_memory_options(model, options)
    require_optimizer(model, options)


def _take_back(leaves: Leaves, keeper: Keeper | None, error: Diverged) -> None:
    """Give the model the parameters that were last kept, if any were."""
    last = keeper.load() if keeper else None
    if last is not None:
        leaves.load(last.trained)
        error.kept = last.step


def _require(
    items: Sequence[Any], stop: StopRule | None, evaluate: object, evaluate_at: Collection[int], keep_every: int
) -> None:
    if not items:
        raise BadInput("There is nothing to train on: the sequence of items is empty")
    if stop is not None and (evaluate is None or not evaluate_at):
        raise BadInput("A stop rule needs numbers: give `evaluate`, and in `evaluate_at` the steps to call it after")
    if keep_every < 1:
        raise BadInput(f"keep_every is {keep_every}; it must be at least 1")


@contextmanager
def _looping(
    model: PreTrainedModel,
    items: Sequence[Any],
    collate: Callable[[list[Any]], Batch],
    loss: Loss,
    options: TrainingOptions,
    losses: list[float],
    leaves: Leaves,
) -> Iterator[tuple[Loop, Optimizer, LRScheduler]]:
    """A trainer for the updates that are still to be made; it lives in a folder that vanishes."""
    with tempfile.TemporaryDirectory() as folder, checkpointed(model, options.gradient_checkpointing):
        optimizer = optimizer_of(model, options, leaves)
        scheduler = scheduler_of(optimizer, options)
        loop = Loop(
            model,
            settings(model, options, len(losses), folder),
            loss=loss,
            options=options,
            losses=losses,
            data_collator=collate,
            train_dataset=Cycle(items, options, len(losses)),
            optimizers=(optimizer, scheduler),
        )
        loop.remove_callback(PrinterCallback)
        try:
            yield loop, optimizer, scheduler
        finally:
            vars(model).pop("_is_accelerate_prepared", None)  # the trainer's mark on the model


@contextmanager
def _only(model: PreTrainedModel, trainable: Collection[str] | None, masks: Mapping[str, Tensor]) -> Iterator[Leaves]:
    """Let only what is named move; put every flag and mode back afterwards, whatever happens."""
    parameters = dict(model.named_parameters())
    if trainable is None and masks:
        trainable = list(masks)
    named = set(parameters) if trainable is None else set(whole_names(trainable))
    slices = slices_of(trainable or ())
    _require_names(parameters, named, slices, masks)
    leaves = Leaves({name: p for name, p in parameters.items() if name in named}, slices, masks)
    flags = {name: parameter.requires_grad for name, parameter in parameters.items()}
    modes = [(module, module.training) for module in model.modules()]
    try:
        for name, parameter in parameters.items():
            parameter.requires_grad_(name in named)
        with leaves.masked():
            yield leaves
    finally:
        for name, parameter in parameters.items():
            parameter.requires_grad_(flags[name])
            parameter.grad = None
        for module, mode in modes:
            module.training = mode


def _require_names(
    parameters: Collection[str], named: Collection[str], slices: Collection[str], masks: Collection[str]
) -> None:
    for name in sorted({*named, *masks} - set(parameters)):
        raise BadInput(f"The model has no parameter {name!r}. {did_you_mean(name, parameters)}")
    if not named:
        raise BadInput("No parameter may move: `trainable` is empty. Name at least one, or pass None for all")
    for name in masks:
        if name not in named:
            raise BadInput(f"There is a mask for {name}, which may not move: add it to `trainable`")
        if name in slices:
            raise BadInput(f"{name} has a mask and single experts are named of it: name it whole, the mask can select")
