"""The two sides of `bench.gradient`: our method and the published step, trained on the same texts in the same order.

Read it as: `Ours(...).train()` and `Published(...).train()` give the seconds of each update and the first loss.
"""

import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from transformers import TrainerCallback

from bench.gradient_published import PublishedStep, arguments
from bench.gradient_subject import SHAPES, Shape, concept, language_model, our_method, our_pairs, tokenizer
from interventions.gradient.pairs import Pair
from interventions.steering_loss import control_vector
from workbench.intervention import Intervention
from workbench.model import HookedModel
from workbench.training import TrainingOptions
from workbench.training_loop import Cycle

COEFFICIENT = 20.0
"""RMU's c, on both sides."""


@dataclass(frozen=True)
class Asked:
    """What to measure."""

    shape: str = "small"
    device: str = "cpu"
    precision: str = "fp32"
    steps: int = 6
    batch: int = 8
    rounds: int = 3
    lr: float = 1e-5

    @property
    def facts(self) -> int:
        """Forget facts, and retain facts: enough for no fact to come twice."""
        return self.steps * self.batch

    def clock(self) -> float:
        """Seconds."""
        if self.device == "cpu":
            return time.process_time()
        torch.cuda.synchronize()
        return time.perf_counter()


@dataclass(frozen=True)
class Timed:
    """One training."""

    before: float
    """Seconds from the start to the end of the first update."""
    updates: tuple[float, ...]
    """Seconds of each update after the first."""
    loss: float
    """Of the first batch."""


class Ticks(TrainerCallback):
    """Reads the clock after each update; also as a function that is told of progress."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self.clock, self.times = clock, [clock()]

    def on_step_end(self, *_: Any, **__: Any) -> None:
        """Of the trainer."""
        self.times.append(self.clock())

    def __call__(self, *_: Any) -> None:
        """Of ours."""
        self.times.append(self.clock())

    def timed(self, loss: float) -> Timed:
        """What was read."""
        spent = [b - a for a, b in zip(self.times, self.times[1:], strict=False)]
        return Timed(spent[0], tuple(spent[1:]), loss)


class Ours:
    """Our method on its model."""

    def __init__(self, name: str, asked: Asked, shape: Shape, extra: dict[str, Any] | None = None) -> None:
        hf = language_model(shape, asked.device, asked.precision, "eager")
        self.model = HookedModel(hf, tokenizer(shape.vocabulary), name="random llama", check=False, digest="random")
        self.asked, self.told = asked, concept(shape, asked.facts)
        self.method: Any = method_of(name, asked, shape, extra or {})

    def train(self) -> Timed:
        """A fit; the model is put back."""
        ticks = Ticks(self.asked.clock)
        self.edit = self.method.fit(self.model, self.told, progress=ticks)
        return ticks.timed(self.edit.notes["losses"][0])


def method_of(name: str, asked: Asked, shape: Shape, extra: dict[str, Any]) -> Intervention:
    """Our method with the options of both sides."""
    options: dict[str, Any] = {"steps": asked.steps, "lr": asked.lr, "batch_size": asked.batch}
    if name == "rmu":
        return our_method(name, shape, **options, coefficient=COEFFICIENT, alpha=100.0, **extra)
    precision = "bf16" if asked.precision == "bf16" else "as_is"
    return our_method(name, shape, **options, precision=precision, **extra)


class Published:
    """The published step on its model."""

    def __init__(self, name: str, asked: Asked, shape: Shape, pairs: Sequence[Pair] | None = None) -> None:
        self.name, self.asked, self.shape = name, asked, shape
        self.model = language_model(shape, asked.device, asked.precision, "sdpa")
        self.pairs = pairs if pairs is not None else pairs_of(name, asked, shape)

    def train(self) -> Timed:
        """A training; the model keeps what it learnt."""
        asked, more = self.asked, dict[str, Any]()
        if self.name == "rmu":
            vector = control_vector(self.model.config.hidden_size, 0)
            layers = [self.shape.layer - i for i in range(3) if self.shape.layer >= i]
            trained = [f"model.layers.{layer}.mlp.down_proj.weight" for layer in layers]
            more = {"layer": self.shape.layer, "target": COEFFICIENT * vector, "trained": trained}
        bf16, cpu = asked.precision == "bf16", asked.device == "cpu"
        ticks = Ticks(asked.clock)
        with tempfile.TemporaryDirectory() as folder:
            settings = arguments(folder, steps=asked.steps, batch=asked.batch, lr=asked.lr, bf16=bf16, cpu=cpu)
            options = TrainingOptions(steps=asked.steps, batch_size=asked.batch)
            trainer = PublishedStep(
                self.model,
                settings,
                train_dataset=Cycle(self.pairs, options),
                callbacks=[ticks],
                method=self.name.removesuffix("-top"),
                **more,
            )
            trainer.train()
        return ticks.timed(float(trainer.losses[0]))


def pairs_of(name: str, asked: Asked, shape: Shape) -> list[Pair]:
    """What our method would train on, found with a small model of the same tokens."""
    small = Shape({**SHAPES["tiny"].config, "vocab_size": shape.vocabulary}, 0)
    ours = Ours(name, asked, small)
    return our_pairs(name, ours.model, ours.told, ours.method)
