"""What every loss is a function of: which logits predict which token, and the sums over rows."""

import math

import pytest
import torch

from interventions.gradient.grad_ascent import ascent_loss
from interventions.gradient.losses.ascent import ascent
from interventions.gradient.losses.npo import npo
from interventions.gradient.losses.said import Said, wide
from interventions.gradient.npo import npo_loss
from tests.interventions.losses.published import raw
from workbench.errors import BadInput
from workbench.objectives import token_loss

LABELS = torch.tensor([[-100, -100, 1, 2], [-100, -100, -100, -100], [0, 2, -100, 1]])


def logits() -> torch.Tensor:
    return torch.arange(36.0).reshape(3, 4, 3).sin()


def test_a_label_is_predicted_from_the_position_before_it() -> None:
    said = Said.of(logits(), LABELS)
    assert said.token.tolist() == [1, 2, 2, 1] and said.row.tolist() == [0, 0, 2, 2] and said.rows == 3
    assert torch.equal(said.logits, torch.stack([logits()[0, 1], logits()[0, 2], logits()[2, 0], logits()[2, 2]]))


def test_sums_and_means_over_tokens_and_rows() -> None:
    said = Said(
        torch.tensor([[0.8, 0.2], [0.5, 0.5], [0.1, 0.9]]).log(), torch.tensor([0, 1, 0]), torch.tensor([2, 0, 2]), 3
    )
    first, second, third = (-math.log(p) for p in (0.8, 0.5, 0.1))
    assert said.loss.tolist() == pytest.approx([first, second, third])
    assert said.count.tolist() == [1, 0, 2]
    assert said.total.tolist() == pytest.approx([second, 0, first + third])
    assert said.per_row.tolist() == pytest.approx([second, 0, (first + third) / 2])
    assert float(said.mean) == pytest.approx((first + second + third) / 3)
    assert float(said.over_rows(torch.tensor([3.0, torch.nan, 5.0]))) == 4.0
    assert said.others[:, 0].tolist() == pytest.approx([-math.inf, math.log(0.5), -math.inf])


def test_skipping_the_first_tokens_of_each_row_in_whatever_order_the_rows_come() -> None:
    row, token = torch.tensor([1, 0, 1, 1, 0]), torch.tensor([0, 1, 2, 3, 4])
    said = Said(torch.zeros(5, 6), token, row, 2)
    assert said.after(0).token.tolist() == [0, 1, 2, 3, 4]
    assert said.after(1).token.tolist() == [2, 3, 4] and said.after(1).row.tolist() == [1, 1, 0]
    assert said.after(2).token.tolist() == [3] and said.after(2).rows == 2
    with pytest.raises(BadInput, match="no labelled token"):
        said.after(3)


def test_a_batch_without_labels_is_refused_in_words() -> None:
    with pytest.raises(BadInput, match="at least one answer token"):
        Said.of(logits(), torch.full((3, 4), -100))


@pytest.mark.parametrize(
    ("came", "kept"), [("float64", "float64"), ("float32", "float32"), ("bfloat16", "float32"), ("float16", "float32")]
)
def test_computed_in_float32_or_better(came: str, kept: str) -> None:
    said = Said.of(logits().to(getattr(torch, came)), LABELS)
    assert said.logits.dtype == said.loss.dtype == said.total.dtype == said.mean.dtype == getattr(torch, kept)
    assert wide(said.logits) is said.logits


def test_the_same_numbers_as_the_loop_that_trains() -> None:
    case = raw()
    said, there = case.said("forget"), token_loss(case.logits["forget"], case.labels["forget"])
    torch.testing.assert_close(said.total, there.total)
    assert torch.equal(said.count, there.count)
    torch.testing.assert_close(ascent(said), ascent_loss(there))
    original = case.original("forget")
    for per_token in (False, True):
        torch.testing.assert_close(npo(said, original, 0.3, per_token), npo_loss(there, original, 0.3, per_token))
