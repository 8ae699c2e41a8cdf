"""Evaluation while training: what is recorded, when it stops, which parameters are left."""

from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from pydantic import ValidationError

from workbench.demo.planted import plant
from workbench.errors import BadInput
from workbench.objectives import answer_nll, labelled
from workbench.tokens import encode
from workbench.training import StopRule, TrainingLog, TrainingOptions, train
from workbench.training_stop import Course

NAN = float("nan")


def course(rule: StopRule, values: Sequence[float]) -> tuple[int | None, int | None]:
    """Step of the best value, and the step at which the rule says stop."""
    found = Course(rule)
    for step, value in enumerate(values):
        found.note(step, float(value))
        if found.why:
            return found.best, step
    return found.best, None


@pytest.mark.parametrize(
    ("rule", "values", "best", "end"),
    [
        (StopRule(patience=2), [5, 4, 4, 3, 3, 3, 1], 3, 5),
        (StopRule(patience=2, mode="max"), [1, 2, 1, 1, 5], 1, 3),
        (StopRule(patience=1, least=0.5), [5, 4.4, 4.0], 1, 2),
        (StopRule(patience=3), [5, 6, 7, 4, 5], 3, None),
        (StopRule(threshold=0.5), [3, 0.5, 0.1], 1, 1),
        (StopRule(threshold=0.5, mode="max"), [0.1, 0.4, 0.6], 2, 2),
        (StopRule(threshold=0.5), [1, 2, 3], 0, None),
        (StopRule(best=True), [2, 1, 1, 3], 1, None),
        (StopRule(patience=2), [NAN, 2, NAN, NAN, 1], 1, 3),
        (StopRule(patience=2), [NAN, NAN], None, 1),
        (StopRule(threshold=0.0), [NAN, 1], 1, None),
    ],
)
def test_the_rule(rule: StopRule, values: list[float], best: int | None, end: int | None) -> None:
    assert course(rule, values) == (best, end)


def trained(
    values: Callable[[int], float | None] | None, stop: StopRule | None = None, at: Sequence[int] = range(13)
) -> tuple[TrainingLog, dict[int, torch.Tensor], torch.Tensor]:
    """The log, the parameters seen at each evaluation, and those at the end."""
    planted, seen = plant(), dict[int, torch.Tensor]()
    items = [encode(planted.tokenizer, fact) for fact in planted.concept.never_taught]
    weight = planted.model.get_parameter("model.layers.1.mlp.down_proj.weight")

    def evaluate(step: int) -> float | None:
        seen[step] = weight.detach().clone()
        return values(step) if values else None

    log = train(
        planted.model,
        items,
        labelled,
        answer_nll,
        TrainingOptions(steps=12, lr=1e-3),
        evaluate_at=at,
        evaluate=evaluate,
        stop=stop,
    )
    return log, seen, weight.detach().clone()


def test_numbers_are_recorded_and_nothing_stops_without_a_rule() -> None:
    log, _, _ = trained(lambda step: float(step), at=[0, 4, 12])
    assert log.evaluations == ((0, 0.0), (4, 4.0), (12, 12.0))
    assert (len(log.losses), log.stopped, log.best, log.why) == (12, None, None, "")
    log, _, _ = trained(None, at=[0, 4])
    assert log.evaluations == ()
    log, _, _ = trained(lambda step: None if step == 4 else 1.0, at=[0, 4, 8])
    assert [step for step, _ in log.evaluations] == [0, 8]


def test_patience_stops_and_the_last_parameters_stay() -> None:
    log, seen, last = trained(lambda step: abs(step - 3), StopRule(patience=2))
    assert (log.stopped, log.best, len(log.losses), log.steps[-1]) == (5, 3, 5, 5)
    assert "best was at step 3" in log.why
    assert torch.equal(last, seen[5]) and not torch.equal(last, seen[3])


def test_the_best_parameters_come_back() -> None:
    log, seen, last = trained(lambda step: abs(step - 3), StopRule(patience=2, best=True))
    assert (log.stopped, log.best) == (5, 3)
    assert torch.equal(last, seen[3])
    log, seen, last = trained(lambda step: abs(step - 3), StopRule(best=True))
    assert (log.stopped, log.best, len(log.losses)) == (None, 3, 12)
    assert torch.equal(last, seen[3]) and not torch.equal(last, seen[12])


def test_a_threshold_stops_also_before_the_first_step() -> None:
    log, _, _ = trained(lambda step: 1 - step / 10, StopRule(threshold=0.65))
    assert log.stopped == 4 and "reached the threshold 0.65" in log.why
    log, seen, last = trained(lambda step: 0.0, StopRule(threshold=0.65))
    assert (log.stopped, log.losses) == (0, ()) and torch.equal(last, seen[0])


def test_evaluations_that_are_no_numbers_leave_the_last_parameters() -> None:
    log, seen, last = trained(lambda step: NAN, StopRule(best=True))
    assert log.best is None and torch.equal(last, seen[12])


def test_evaluating_and_ruling_do_not_change_the_training() -> None:
    _, _, plain = trained(None, at=[])
    _, _, watched = trained(lambda step: 1.0, StopRule(patience=50))
    assert torch.equal(plain, watched)


def test_rules_that_rule_nothing_are_refused() -> None:
    with pytest.raises(ValidationError, match="needs patience, threshold or best"):
        StopRule()
    with pytest.raises(ValidationError, match="patience"):
        StopRule(patience=0)
    more: Any = {"stop": StopRule(patience=1)}
    with pytest.raises(BadInput, match="evaluate_at"):
        trained(lambda step: 1.0, at=[], **more)
