"""The training loop: it learns, only what it may; it leaves no trace; it stops at nonsense."""

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from torch.nn.functional import cross_entropy
from transformers import PreTrainedModel

from workbench.concepts import Fact
from workbench.demo.planted import Planted, plant
from workbench.errors import BadInput, RunError
from workbench.training import Batch, TrainingOptions, train, undisturbed_randomness

DOWN = "model.layers.1.mlp.down_proj.weight"


@pytest.fixture
def planted() -> Planted:
    """A fresh small model."""
    return plant()


@pytest.fixture
def facts(planted: Planted) -> list[Fact]:
    """Facts it does not know."""
    return list(planted.concept.never_taught)


@pytest.fixture
def collate(planted: Planted) -> Callable[[list[Any]], Batch]:
    """Facts of equal length to ids."""
    return lambda rows: {"ids": torch.tensor([planted.tokenizer(f"{f.prompt} {f.answer}")["input_ids"] for f in rows])}


def answer_loss(model: PreTrainedModel, batch: Batch) -> torch.Tensor:
    """Cross-entropy of the answer."""
    return cross_entropy(model(input_ids=batch["ids"], use_cache=False).logits[:, -2], batch["ids"][:, -1])


def weights(planted: Planted) -> dict[str, torch.Tensor]:
    """A copy of all parameters."""
    return {name: tensor.detach().clone() for name, tensor in planted.model.named_parameters()}


@pytest.mark.parametrize(
    "options",
    [
        TrainingOptions(steps=30, batch_size=8, lr=3e-3),
        TrainingOptions(steps=30, batch_size=3, lr=3e-3, schedule="cosine", warmup_steps=5),
        TrainingOptions(steps=30, batch_size=8, lr=3e-3, optimizer="muon", muon_lr=0.01),
    ],
    ids=["adamw", "cosine", "muon"],
)
def test_the_loss_falls(planted: Planted, facts: list[Fact], collate: Any, options: TrainingOptions) -> None:
    log = train(planted.model, facts, collate, answer_loss, options)
    assert log.steps == tuple(range(1, 31)) and len(log.losses) == 30
    assert log.losses[-1] < 0.5 * log.losses[0]


def test_only_the_named_parameters_move(planted: Planted, facts: list[Fact], collate: Any) -> None:
    before = weights(planted)
    train(
        planted.model,
        facts,
        collate,
        answer_loss,
        TrainingOptions(steps=3, lr=1e-2, weight_decay=0.1),
        trainable=[DOWN],
    )
    moved = {name for name, tensor in weights(planted).items() if not torch.equal(tensor, before[name])}
    assert moved == {DOWN}


def test_all_parameters_move_when_none_is_named(planted: Planted, facts: list[Fact], collate: Any) -> None:
    before = weights(planted)
    train(planted.model, facts, collate, answer_loss, TrainingOptions(steps=3, lr=1e-2, weight_decay=0.1))
    assert all(not torch.equal(tensor, before[name]) for name, tensor in weights(planted).items())


@pytest.mark.parametrize("training", [True, False])
def test_flags_modes_and_gradients_are_put_back(
    planted: Planted, facts: list[Fact], collate: Any, training: bool
) -> None:
    planted.model.train(training)
    planted.model.lm_head.weight.requires_grad_(False)
    train(planted.model, facts, collate, answer_loss, TrainingOptions(steps=2), trainable=[DOWN])
    assert planted.model.training is training
    assert {n for n, p in planted.model.named_parameters() if not p.requires_grad} == {"lm_head.weight"}
    assert all(parameter.grad is None for parameter in planted.model.parameters())


def test_a_loss_that_is_no_number_stops_at_its_step(planted: Planted, facts: list[Fact], collate: Any) -> None:
    seen: list[int] = []

    def loss(model: PreTrainedModel, batch: Batch) -> torch.Tensor:
        return answer_loss(model, batch) * (float("nan") if len(seen) == 2 else 1.0)

    with pytest.raises(RunError, match="nan at step 3 of 5"):
        train(planted.model, facts, collate, loss, TrainingOptions(steps=5), on_step=lambda step, _: seen.append(step))
    assert seen == [1, 2]
    assert all(parameter.isfinite().all() for parameter in planted.model.parameters())


def test_ctrl_c_comes_through_with_flags_restored(planted: Planted, facts: list[Fact], collate: Any) -> None:
    def stop(step: int, loss: float) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(planted.model, facts, collate, answer_loss, TrainingOptions(steps=5), trainable=[DOWN], on_step=stop)
    assert all(parameter.requires_grad for parameter in planted.model.parameters())
    assert not planted.model.training


def test_same_seed_same_parameters_other_seed_others(collate: Any) -> None:
    def trained(seed: int) -> torch.Tensor:
        planted = plant()
        train(
            planted.model,
            list(planted.concept.never_taught),
            collate,
            answer_loss,
            TrainingOptions(steps=4, batch_size=3, lr=1e-2, seed=seed),
        )
        return planted.model.get_parameter(DOWN)

    assert torch.equal(trained(0), trained(0))
    assert not torch.equal(trained(0), trained(1))


def test_random_states_and_the_folder_are_untouched(
    planted: Planted,
    facts: list[Fact],
    collate: Any,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    before = (torch.get_rng_state(), np.random.get_state()[1].tolist())
    train(planted.model, facts, collate, answer_loss, TrainingOptions(steps=2))
    assert torch.equal(torch.get_rng_state(), before[0]) and np.random.get_state()[1].tolist() == before[1]
    assert not list(tmp_path.iterdir())
    assert capfd.readouterr().out == ""


def test_undisturbed_randomness_puts_every_state_back() -> None:
    before = random.getstate()  # train() is not asked: beartype itself draws from Python's state in these tests
    with undisturbed_randomness():
        random.seed(1)
    after = random.getstate()
    assert after == before


def test_every_item_is_used_once_a_round(planted: Planted, facts: list[Fact], collate: Any) -> None:
    used: list[str] = []

    def noting(rows: list[Fact]) -> Batch:
        used.extend(fact.prompt for fact in rows)
        return collate(rows)

    train(planted.model, facts, noting, answer_loss, TrainingOptions(steps=6, batch_size=4))
    everything = sorted(fact.prompt for fact in facts)
    assert len(used) == 24
    assert [sorted(used[i : i + 8]) for i in (0, 8, 16)] == [everything] * 3
    assert used[:8] != used[8:16]


def test_the_caller_can_measure_between_steps(planted: Planted, facts: list[Fact], collate: Any) -> None:
    measured: list[tuple[int, bool]] = []
    train(
        planted.model,
        facts,
        collate,
        answer_loss,
        TrainingOptions(steps=4),
        evaluate_at={0, 2, 4},
        evaluate=lambda step: measured.append((step, planted.model.training)),
    )
    assert measured == [(0, False), (2, False), (4, False)]


def test_measuring_does_not_change_the_result(collate: Any) -> None:
    def trained(**watch: Any) -> torch.Tensor:
        planted = plant()
        train(
            planted.model,
            list(planted.concept.never_taught),
            collate,
            answer_loss,
            TrainingOptions(steps=4, batch_size=3, lr=1e-2),
            **watch,
        )
        return planted.model.get_parameter(DOWN)

    assert torch.equal(trained(), trained(evaluate_at={2}, evaluate=lambda step: None))


def test_bad_input_is_named(planted: Planted, facts: list[Fact], collate: Any) -> None:
    with pytest.raises(BadInput, match="nothing to train on"):
        train(planted.model, [], collate, answer_loss, TrainingOptions())
    with pytest.raises(BadInput, match="Did you mean 'lm_head.weight'"):
        train(planted.model, facts, collate, answer_loss, TrainingOptions(), trainable=["lm_head.wieght"])
    with pytest.raises(BadInput, match="empty"):
        train(planted.model, facts, collate, answer_loss, TrainingOptions(), trainable=[])
    with pytest.raises(ValidationError, match="warmup_steps"):
        TrainingOptions(steps=5, warmup_steps=5)
    with pytest.raises(ValidationError, match="extra"):
        TrainingOptions(step=5)  # type: ignore[call-arg]
