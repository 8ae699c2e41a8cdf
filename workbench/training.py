"""The one training loop: demo models, gradient unlearning and the relearning attack all go through `train`.

It is `transformers.Trainer` with everything that leaves traces turned off: no files, no reports, no progress bars, no
change to the global random state; afterwards every `requires_grad` flag and the train/eval mode are as before. The
loss is the caller's function, the items are the caller's, and only the named parameters move.

Read it as: `log = train(model, items, collate, loss, options)`; `log.losses[i]` is the loss of step i + 1, read before
that step's update. Does not show: whether the model got better; measure it with `evaluate_at` and `evaluate`.
"""

import math
import random
import tempfile
from collections.abc import Callable, Collection, Iterator, Sequence, Sized
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal, cast

import numpy as np
import torch
from jaxtyping import Float
from pydantic import BaseModel, ConfigDict, Field, model_validator
from torch import Tensor, nn
from torch.utils.data import Dataset, SequentialSampler
from transformers import (
    PreTrainedModel,
    PrinterCallback,
    Trainer,
    TrainerCallback,
    TrainerState,
    TrainingArguments,
    get_scheduler,
)

from workbench.errors import BadInput, RunError, did_you_mean
from workbench.experts import Leaves, slices_of, whole_names

_SCHEDULES = {"constant": "constant_with_warmup", "cosine": "cosine", "linear": "linear"}

Batch = dict[str, Tensor]
"""What `collate` makes of some items; its tensors are moved to the model's device."""

Loss = Callable[[PreTrainedModel, Batch], Float[Tensor, ""]]
"""From a model and a batch to the number that training makes smaller."""


class TrainingOptions(BaseModel):
    """How a model is trained."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    steps: int = Field(100, ge=1)
    """Number of parameter updates."""
    batch_size: int = Field(8, ge=1)
    """Items per update; the items are cycled, in a new order each time round."""
    lr: float = Field(1e-4, gt=0)
    """Learning rate of AdamW."""
    schedule: Literal["constant", "cosine", "linear"] = "constant"
    """How the learning rate falls after the warm-up: not at all, or to 0 along a half cosine or a line."""
    warmup_steps: int = Field(0, ge=0)
    """Updates over which the learning rate rises from 0; fewer than `steps`."""
    weight_decay: float = Field(0.0, ge=0)
    """Decoupled weight decay of AdamW."""
    betas: tuple[float, float] = (0.9, 0.999)
    """Decay rates of AdamW's running means of the gradient and of its square."""
    max_grad_norm: float = Field(1.0, ge=0)
    """Gradients of larger norm (over all trained parameters) are scaled down to it; 0 leaves them alone."""
    seed: int = 0
    """Seed of the order of items and of dropout."""
    optimizer: Literal["adamw", "muon"] = "adamw"
    """`adamw`, or `muon`: Muon for the two-dimensional matrices inside the blocks and AdamW for the rest."""
    muon_lr: float = Field(0.02, gt=0)
    """Learning rate of Muon."""
    muon_weight_decay: float = Field(0.0, ge=0)
    """Decoupled weight decay of Muon."""
    muon_momentum: float = Field(0.95, ge=0, lt=1)
    """Momentum of Muon."""

    @model_validator(mode="after")
    def _warm_up_ends(self) -> "TrainingOptions":
        if self.warmup_steps >= self.steps:
            raise ValueError(f"warmup_steps ({self.warmup_steps}) must be fewer than steps ({self.steps})")
        return self


@dataclass(frozen=True)
class TrainingLog:
    """What happened during training."""

    steps: tuple[int, ...]
    """Number of each update, from 1."""
    losses: tuple[float, ...]
    """Loss of each update's batch, before the update."""


class _Cycle(Dataset[Any]):
    """All items of all steps in the order they are used: whole rounds, each shuffled anew."""

    def __init__(self, items: Sequence[Any], options: TrainingOptions) -> None:
        generator = torch.Generator().manual_seed(options.seed)
        needed = options.steps * options.batch_size
        rounds = [torch.randperm(len(items), generator=generator) for _ in range(math.ceil(needed / len(items)))]
        self.items, self.order = items, torch.cat(rounds)[:needed].tolist()

    def __len__(self) -> int:
        return len(self.order)

    def __getitem__(self, index: int) -> Any:
        return self.items[self.order[index]]


class _MuonAndAdamW(torch.optim.Optimizer):
    """Two optimizers that look like one to the scheduler and the trainer; they share its list of groups."""

    def __init__(self, muon: torch.optim.Muon, adamw: torch.optim.AdamW) -> None:
        super().__init__([*muon.param_groups, *adamw.param_groups], {})
        self.parts = (muon, adamw)
        cut = len(muon.param_groups)
        muon.param_groups, adamw.param_groups = self.param_groups[:cut], self.param_groups[cut:]

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        """Update both; a closure is not supported because the trainer never gives one."""
        assert closure is None
        for part in self.parts:
            part.step()


def _optimizer(model: PreTrainedModel, options: TrainingOptions, leaves: Leaves) -> torch.optim.Optimizer:
    """The optimizer over all parameters, and slices of parameters, that may move."""
    moving = leaves.instead_of([parameter for parameter in model.parameters() if parameter.requires_grad])
    inside = {id(p) for m in model.modules() if isinstance(m, nn.ModuleList) for p in m.parameters() if p.ndim == 2}
    matrices = [p for p in moving if id(p) in inside] if options.optimizer == "muon" else []
    rest = [p for p in moving if not any(p is matrix for matrix in matrices)]

    def adamw(parameters: list[nn.Parameter]) -> torch.optim.AdamW:
        return torch.optim.AdamW(parameters, lr=options.lr, betas=options.betas, weight_decay=options.weight_decay)

    def muon(parameters: list[nn.Parameter]) -> torch.optim.Muon:
        return torch.optim.Muon(
            parameters, lr=options.muon_lr, weight_decay=options.muon_weight_decay, momentum=options.muon_momentum
        )

    if matrices and rest:
        optimizer: torch.optim.Optimizer = _MuonAndAdamW(muon(matrices), adamw(rest))
    else:
        optimizer = muon(matrices) if matrices else adamw(rest)
    leaves.watch(optimizer)
    return optimizer


class _Quiet(TrainerCallback):
    """Tells the caller about every step."""

    def __init__(
        self,
        trainer: "_Trainer",
        on_step: Callable[[int, float], None] | None,
        evaluate_at: Collection[int],
        evaluate: Callable[[int], None] | None,
    ) -> None:
        self.trainer, self.on_step, self.evaluate_at, self.evaluate = trainer, on_step, set(evaluate_at), evaluate

    def on_train_begin(self, *_: object, **__: object) -> None:
        """Step 0 is the model as it came."""
        self._measure(0)

    def on_step_end(self, _args: TrainingArguments, state: TrainerState, *_: object, **__: object) -> None:
        """After each update."""
        if self.on_step:
            self.on_step(state.global_step, self.trainer.losses[-1])
        self._measure(state.global_step)

    def _measure(self, step: int) -> None:
        """Let the caller look at the model, in eval mode."""
        if self.evaluate and step in self.evaluate_at:
            self.trainer.model.eval()
            self.evaluate(step)
            self.trainer.model.train()


class _Trainer(Trainer):
    """`Trainer` with the caller's loss, a fixed order of items, and a stop at the first loss that is not a number."""

    def __init__(self, *args: Any, loss: Loss, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.loss, self.losses = loss, list[float]()

    def _get_train_sampler(self, train_dataset: Dataset[Any] | None = None) -> SequentialSampler:
        return SequentialSampler(cast(Sized, train_dataset or self.train_dataset))

    def compute_loss(self, model: nn.Module, inputs: Batch, **_: object) -> Float[Tensor, ""]:
        """The caller's loss; checked here, before it can spoil any parameter."""
        value = self.loss(model, inputs)
        self.losses.append(float(value.detach()))
        if not math.isfinite(self.losses[-1]):
            raise RunError(
                f"The loss became {self.losses[-1]} at step {len(self.losses)} of {self.args.max_steps}; "
                f"a lower learning rate than {self.args.learning_rate:g} may help"
            )
        return value


@contextmanager
def undisturbed_randomness() -> Iterator[None]:
    """Put the random states of Python, numpy and torch (CPU and GPUs) back afterwards."""
    python, numpy_state = random.getstate(), np.random.get_state()
    with torch.random.fork_rng():
        try:
            yield
        finally:
            random.setstate(python)
            np.random.set_state(numpy_state)


@contextmanager
def _only(model: PreTrainedModel, trainable: Collection[str] | None) -> Iterator[Leaves]:
    """Let only the named parameters move; put every flag and mode back afterwards, whatever happens."""
    parameters = dict(model.named_parameters())
    named = None if trainable is None else set(whole_names(trainable))
    unknown = sorted((named or set()) - set(parameters))
    if unknown:
        raise BadInput(f"The model has no parameter {unknown[0]!r}. {did_you_mean(unknown[0], parameters)}")
    if trainable is not None and not trainable:
        raise BadInput("No parameter may move: `trainable` is empty. Name at least one, or pass None for all")
    leaves = Leaves(parameters, slices_of(trainable or ()))
    flags = {name: parameter.requires_grad for name, parameter in parameters.items()}
    modes = [(module, module.training) for module in model.modules()]
    try:
        for name, parameter in parameters.items():
            parameter.requires_grad_(named is None or name in named)
        with leaves.masked():
            yield leaves
    finally:
        for name, parameter in parameters.items():
            parameter.requires_grad_(flags[name])
            parameter.grad = None
        for module, mode in modes:
            module.training = mode


def _arguments(model: PreTrainedModel, options: TrainingOptions, folder: str) -> TrainingArguments:
    """Trainer's settings: everything that writes, reports or guesses is off."""
    return TrainingArguments(
        output_dir=folder,
        max_steps=options.steps,
        per_device_train_batch_size=options.batch_size,
        learning_rate=options.lr,
        max_grad_norm=options.max_grad_norm,
        seed=options.seed,
        data_seed=options.seed,
        save_strategy="no",
        logging_strategy="no",
        eval_strategy="no",
        report_to="none",
        disable_tqdm=True,
        remove_unused_columns=False,
        dataloader_num_workers=0,
        dataloader_pin_memory=False,
        bf16=False,
        fp16=False,
        use_cpu=model.device.type == "cpu",
    )


def train(
    model: PreTrainedModel,
    items: Sequence[Any],
    collate: Callable[[list[Any]], Batch],
    loss: Loss,
    options: TrainingOptions,
    *,
    trainable: Collection[str] | None = None,
    on_step: Callable[[int, float], None] | None = None,
    evaluate_at: Collection[int] = (),
    evaluate: Callable[[int], None] | None = None,
) -> TrainingLog:
    """Change `model` in place so that `loss(model, collate(items))` falls.

    `trainable` names what may move (None: all): parameters, or one expert's slice (`...experts.down_proj[5]`); all else
    stays bit-identical. `on_step` gets the step (from 1) and its loss. `evaluate` is called with the step after each in
    `evaluate_at` (0: before the first), in eval mode. On one machine the same call gives the same parameters.

    Raises:
        BadInput: when there are no items, or a parameter to train does not exist.
        RunError: when the loss is no longer a finite number; the parameters are those before that step.
    """
    if not items:
        raise BadInput("There is nothing to train on: the sequence of items is empty")
    with undisturbed_randomness(), _only(model, trainable) as leaves, tempfile.TemporaryDirectory() as folder:
        optimizer = _optimizer(model, options, leaves)
        scheduler = get_scheduler(_SCHEDULES[options.schedule], optimizer, options.warmup_steps, options.steps)
        trainer = _Trainer(
            model,
            _arguments(model, options, folder),
            loss=loss,
            data_collator=collate,
            train_dataset=_Cycle(items, options),
            optimizers=(optimizer, scheduler),
        )
        trainer.remove_callback(PrinterCallback)
        trainer.add_callback(_Quiet(trainer, on_step, evaluate_at, evaluate))
        trainer.train()
        losses = tuple(trainer.losses)
    return TrainingLog(tuple(range(1, len(losses) + 1)), losses)
