"""`transformers.Trainer` with everything that leaves traces turned off, and our own loss, order of items and savings.

`Loop` computes a loss and stops at the first that is no number; `Watch` is told of every step and does what belongs
between two: report, measure, decide to stop, keep. Only `workbench.training` uses them.
"""

import math
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, cast

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.utils.data import Dataset, SequentialSampler
from transformers import PreTrainedModel, Trainer, TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from workbench.errors import Diverged
from workbench.training_leaves import Leaves
from workbench.training_memory import passes_in
from workbench.training_optimizers import restore, state_of
from workbench.training_options import TrainingOptions
from workbench.training_processes import average_gradients, averaged, require_processes
from workbench.training_randomness import random_states, set_random_states
from workbench.training_resume import Keeper, Progress
from workbench.training_sharded import is_sharded, require_gradients
from workbench.training_sophia import Sophia, drawn_gradients
from workbench.training_stop import Course

Batch = dict[str, Tensor]
"""What `collate` makes of some items; its tensors are moved to the model's device."""

Loss = Callable[[PreTrainedModel, Batch], Float[Tensor, ""] | Iterator[Float[Tensor, ""]]]
"""From a model and a batch to the number that training makes smaller; or to its summands, each of which is taken back
before the next is asked for, so that only one graph is in memory."""


class Cycle(Dataset[Any]):
    """All items of all steps in the order they are used: whole rounds, each shuffled anew; from some step on."""

    def __init__(self, items: Sequence[Any], options: TrainingOptions, done: int = 0) -> None:
        generator = torch.Generator().manual_seed(options.seed)
        needed = options.steps * options.batch_size
        rounds = [torch.randperm(len(items), generator=generator) for _ in range(math.ceil(needed / len(items)))]
        self.items, self.order = items, torch.cat(rounds)[done * options.batch_size : needed].tolist()

    def __len__(self) -> int:
        return len(self.order)

    def __getitem__(self, index: int) -> Any:
        return self.items[self.order[index]]


def settings(model: PreTrainedModel, options: TrainingOptions, done: int, folder: str) -> TrainingArguments:
    """Trainer's settings: everything that writes, reports or guesses is off."""
    arguments = TrainingArguments(
        output_dir=folder,
        max_steps=options.steps - done,
        gradient_accumulation_steps=options.accumulate,
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
    arguments.per_device_train_batch_size = options.batch_size // (options.accumulate * arguments.world_size)
    arguments._n_gpu = 1  # one process, one device: else the trainer would copy the model to every GPU it sees
    return arguments


class Loop(Trainer):
    """`Trainer` with the caller's loss, a fixed order of items, and a stop at the first loss that is not a number."""

    def __init__(self, *args: Any, loss: Loss, options: TrainingOptions, losses: list[float], **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.loss, self.options, self.losses = loss, options, losses
        self.parts: list[float] = []
        self.seen = 0
        self.batch: Batch = {}
        require_processes(self.processes, options)
        if self.processes > 1:  # no DistributedDataParallel round the model: see workbench.training_processes
            prepare = self.accelerator.prepare_model
            self.accelerator.prepare_model = lambda model, **more: prepare(model, **{**more, "evaluation_mode": True})

    @property
    def processes(self) -> int:
        """How many train together."""
        return int(self.accelerator.num_processes)

    def _get_train_sampler(self, train_dataset: Dataset[Any] | None = None) -> SequentialSampler:
        return SequentialSampler(cast(Cycle, train_dataset or self.train_dataset))

    def compute_loss(self, _model: nn.Module, inputs: Batch, **_: object) -> Float[Tensor, ""]:
        """The caller's loss; checked here, before it can spoil any parameter."""
        with passes_in(self.options.precision, self.model.device):
            found = self.loss(self.model, inputs)
        value = found if isinstance(found, Tensor) else self._taken_back(found)
        number = averaged(float(value.detach()), self.processes)
        if not math.isfinite(number):
            raise self._diverged(f"The loss became {number}", len(self.losses) + 1, self._used(self.seen, 1))
        self.batch, self.seen = inputs, self.seen + 1
        self.parts.append(number)
        if len(self.parts) == self.options.accumulate:
            self.losses.append(sum(self.parts) / len(self.parts))
            self.parts.clear()
        return value

    def _taken_back(self, terms: Iterator[Float[Tensor, ""]]) -> Float[Tensor, ""]:
        """The sum of summands whose gradients are there already; the trainer's own way back from it ends at once."""
        total: list[Tensor] = []
        while True:
            with passes_in(self.options.precision, self.model.device):
                term = next(terms, None)
            if term is None:
                return sum(total[1:], total[0]).requires_grad_()
            if term.requires_grad:
                self.accelerator.backward(term / self.current_gradient_accumulation_steps)
            total.append(term.detach())
            del term  # and with it its graph, before the next one grows

    def require_finite_gradients(self) -> None:
        """Refuse an update that would make parameters no numbers; without it the loss tells one update too late.

        Raises:
            Diverged: naming the step and its items.
        """
        gradients = [p.grad for p in self.model.parameters() if p.requires_grad and p.grad is not None]
        if not all(bool(gradient.isfinite().all()) for gradient in gradients):
            parts = self.options.accumulate
            items = self._used(self.seen - parts, parts)
            raise self._diverged("The gradient is no longer finite", len(self.losses), items)

    def _diverged(self, what: str, step: int, items: Sequence[int]) -> Diverged:
        return Diverged(
            f"{what} at step {step} of {self.options.steps} (items {', '.join(map(str, items))} of those to train "
            f"on); a lower learning rate than {self.options.lr:g} may help"
        )

    def _used(self, start: int, passes: int) -> list[int]:
        """Which items some passes are over, in all processes."""
        size = self.options.batch_size // self.options.accumulate
        return cast(Cycle, self.train_dataset).order[start * size : (start + passes) * size]

    def training_step(self, *args: Any, **kwargs: Any) -> Tensor:
        """One pass forward and back; after the last of an update gradients are averaged over the processes."""
        value = super().training_step(*args, **kwargs)
        if is_sharded(self.model):
            require_gradients(self.model)  # already averaged
        elif self.accelerator.sync_gradients:
            average_gradients(self.model, self.processes)
        return value

    def drawn(self) -> tuple[dict[int, Tensor], int]:
        """Sophia's estimate on the batch that was just used."""
        moving = [parameter for parameter in self.model.parameters() if parameter.requires_grad]
        return drawn_gradients(self.model, self._again, moving)

    def _again(self) -> Float[Tensor, ""]:
        with passes_in(self.options.precision, self.model.device):
            found = self.loss(self.model, self.batch)
            return found if isinstance(found, Tensor) else cast(Tensor, sum(found))


@dataclass(eq=False)
class Watch(TrainerCallback):
    """What happens between steps."""

    loop: Loop
    leaves: Leaves
    optimizer: torch.optim.Optimizer
    scheduler: Any
    course: Course
    evaluate_at: Collection[int]
    keep_every: int
    on_step: Callable[[int, float], None] | None = None
    evaluate: Callable[[int], float | None] | None = None
    keeper: Keeper | None = None
    resumed: Progress | None = None
    best: dict[str, Tensor] = field(default_factory=dict)

    def take_up(self, resumed: Progress | None) -> None:
        """Go on from where a training stood."""
        self.resumed = resumed
        self.best = {} if resumed is None else resumed.best

    def run(self) -> None:
        """Train to the end, or to the rule's; leave the last parameters or the best."""
        if self.resumed is None:
            self.measure(0)
        if not self.course.why:
            self.loop.add_callback(self)
            self.loop.train()
        if self.best:
            self.leaves.load(self.best)
        if self.keeper:
            self.keeper.save(self.progress(finished=True))

    def on_train_begin(self, *_: object, **__: object) -> None:
        """Take up the running means where they were; not before, because the trainer rewrites the optimizer's state."""
        if self.resumed is not None:
            restore(self.optimizer, self.resumed.optimizer)
            self.scheduler.load_state_dict(self.resumed.scheduler)

    def on_step_begin(self, *_: object, **__: object) -> None:
        """Take up the random states; not before, because the trainer draws from them when it starts."""
        if self.resumed is not None:
            set_random_states(self.resumed.randomness)
            self.resumed = None

    def on_pre_optimizer_step(self, *_: object, **__: object) -> None:
        """No update by what is no number; Sophia looks at the curvature at steps 1, 1 + every, and so on."""
        self.loop.require_finite_gradients()
        options, done = self.loop.options, len(self.loop.losses) - 1
        if isinstance(self.optimizer, Sophia) and not options.sophia_published and done % options.sophia_every == 0:
            gradients, count = self.loop.drawn()
            self.optimizer.estimate(self.leaves.shares(gradients), count)

    def on_step_end(self, _args: TrainingArguments, _state: TrainerState, control: TrainerControl, **_: object) -> None:
        """After each update."""
        step = len(self.loop.losses)
        if self.on_step:
            self.on_step(step, self.loop.losses[-1])
        self.measure(step)
        if self.course.why:
            control.should_training_stop = True
        elif self.keeper and step % self.keep_every == 0 and step < self.loop.options.steps:
            self.keeper.save(self.progress(finished=False))

    def measure(self, step: int) -> None:
        """Let the caller look at the model, in eval mode, and take in the number that comes back, if any."""
        if self.evaluate and step in self.evaluate_at:
            self.loop.model.eval()
            value = self.evaluate(step)
            self.loop.model.train()
            if value is not None:
                better = self.course.note(step, averaged(float(value), self.loop.processes))
                if better and self.course.rule and self.course.rule.best:
                    self.best = self.leaves.copy()

    def progress(self, finished: bool) -> Progress:
        """Where the training stands."""
        return Progress(
            step=len(self.loop.losses),
            finished=finished,
            losses=list(self.loop.losses),
            evaluations=list(self.course.values),
            trained={name: held.detach() for name, held in self.leaves.held.items()},
            best={} if finished else self.best,
            optimizer=[] if finished else state_of(self.optimizer),
            scheduler={} if finished else self.scheduler.state_dict(),
            randomness={} if finished else random_states(),
        )
