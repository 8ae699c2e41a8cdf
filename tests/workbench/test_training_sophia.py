"""Sophia: each update is that of a formula in double precision; the estimator estimates what it should."""

from typing import Any

import pytest
import torch
from torch import nn

from workbench.demo.planted import plant
from workbench.errors import BadInput
from workbench.objectives import answer_nll, labelled
from workbench.tokens import encode
from workbench.training import TrainingOptions, train
from workbench.training_sophia import Sophia, drawn_gradients

LR, DECAY, RHO, FIRST, SECOND = 0.02, 0.1, 0.04, 0.9, 0.95


def gradients(steps: int) -> list[torch.Tensor]:
    """Large, middling, tiny and zero entries, so that some updates are cut and others are not."""
    generator = torch.Generator().manual_seed(0)
    scale = torch.tensor([3.0, 1.0, 1e-1, 1e-2, 1e-4, 0.0])
    return [torch.randn(6, generator=generator) * scale for _ in range(steps)]


def by_hand(start: torch.Tensor, batch: int, published: bool, every: int = 2) -> tuple[list[torch.Tensor], int]:
    """The formulas of the module's docstring in float64; also how many updates were not cut."""
    x, m, h, uncut, path = start.double(), torch.zeros(6).double(), torch.zeros(6).double(), 0, []
    for number, gradient in enumerate(gradients(7)):
        g = gradient.double()
        if published:
            h = SECOND * h + (1 - SECOND) * g * g
            m = FIRST * m + (1 - FIRST) * g
            m = FIRST * m + (1 - FIRST) * g
            ratio = m.abs() / (RHO * batch * h + 1e-15)
        else:
            if number % every == 0:
                h = SECOND * h + (1 - SECOND) * batch * (2 * g) * (2 * g)  # the estimate is of another gradient
            m = FIRST * m + (1 - FIRST) * g
            ratio = m.abs() / (RHO * h).clamp(min=1e-12)
        x = x * (1 - LR * DECAY) - LR * m.sign() * ratio.clamp(max=1)
        uncut += int((ratio < 1).sum())
        path.append(x)
    return path, uncut


@pytest.mark.parametrize("published", [False, True])
def test_every_step_is_the_formula(published: bool) -> None:
    start, batch = torch.linspace(-1, 1, 6), 40
    parameter = nn.Parameter(start.clone())
    optimizer = Sophia([parameter], LR, (FIRST, SECOND), RHO, DECAY, batch=batch, published=published)
    path, uncut = by_hand(start, batch, published)
    assert 3 < uncut < 35  # both sides of the cut are tried
    for number, (gradient, expected) in enumerate(zip(gradients(7), path, strict=True)):
        parameter.grad = gradient
        if not published and number % 2 == 0:
            optimizer.estimate({parameter: 2 * gradient}, batch)
        optimizer.step()
        torch.testing.assert_close(parameter.detach().double(), expected, rtol=1e-5, atol=1e-6)


def test_the_two_variants_differ() -> None:
    start = torch.linspace(-1, 1, 6)
    assert not torch.allclose(by_hand(start, 40, True)[0][-1], by_hand(start, 40, False)[0][-1], atol=1e-3)


class Softmax(nn.Module):
    """A model whose logits are its parameters."""

    def __init__(self, logits: torch.Tensor) -> None:
        super().__init__()
        self.table = nn.Parameter(logits)

    def forward(self, rows: torch.Tensor) -> Any:
        return type("Output", (), {"logits": self.table[rows]})()


def test_the_estimate_is_the_gauss_newton_diagonal_on_average() -> None:
    """For logits as parameters the diagonal of the Gauss-Newton matrix is p (1 - p), known exactly."""
    model: Any = Softmax(torch.tensor([[2.0, 0.0, -1.0], [0.3, 0.3, 0.0]]))
    rows = torch.tensor([0, 1, 0, 1])  # row 0 is used twice by the loss, row 1 only where it is read

    def loss() -> torch.Tensor:
        logits = model(rows).logits
        return nn.functional.cross_entropy(logits[:3], torch.tensor([1, 0, 2]))  # the last position is not read

    torch.manual_seed(0)
    total, draws = torch.zeros(2, 3), 1500
    for _ in range(draws):
        found, count = drawn_gradients(model, loss, [model.table])
        assert count == 3
        total += count * found[id(model.table)] ** 2
    p = model.table.detach().softmax(-1)
    expected = p * (1 - p) * torch.tensor([[2.0], [1.0]]) / 3  # mean over the three positions read
    torch.testing.assert_close(total / draws, expected, rtol=0.15, atol=0.005)


def options(**more: Any) -> TrainingOptions:
    return TrainingOptions(steps=25, lr=1e-3, batch_size=4, optimizer="sophia", **more)


@pytest.mark.parametrize("published", [False, True])
def test_the_loss_falls_and_no_entry_moves_more_than_the_rate(published: bool) -> None:
    planted = plant()
    items = [encode(planted.tokenizer, fact) for fact in planted.concept.never_taught]
    before = {name: p.detach().clone() for name, p in planted.model.named_parameters()}
    largest: list[float] = []

    def measure(step: int, loss: float) -> None:
        pairs = [(p.detach(), before[name]) for name, p in planted.model.named_parameters()]
        largest.append(max(float((new - old).abs().max()) for new, old in pairs))
        before.update({name: p.detach().clone() for name, p in planted.model.named_parameters()})

    log = train(planted.model, items, labelled, answer_nll, options(sophia_published=published), on_step=measure)
    assert log.losses[-1] < 0.5 * log.losses[0]
    assert max(largest) < 1.001e-3 + 1e-6 and min(largest) > 0.5e-3


def test_the_curvature_is_estimated_every_so_many_updates() -> None:
    planted = plant()
    items = [encode(planted.tokenizer, fact) for fact in planted.concept.never_taught]
    passes: list[int] = []

    def loss(hf: Any, batch: Any) -> torch.Tensor:
        passes.append(1)
        return answer_nll(hf, batch)

    def count(**more: Any) -> int:
        passes.clear()
        train(planted.model, items, labelled, loss, options(**more).model_copy(update={"steps": 7}))
        return len(passes)

    assert count(sophia_every=3) == 7 + 3  # at updates 1, 4 and 7
    assert count(sophia_published=True) == 7


def test_a_loss_without_logits_is_refused_by_the_papers_estimator() -> None:
    planted = plant()
    items = [encode(planted.tokenizer, fact) for fact in planted.concept.never_taught]

    def loss(hf: Any, batch: Any) -> torch.Tensor:
        return hf(input_ids=batch["input_ids"], output_hidden_states=True).hidden_states[2].square().mean()

    with pytest.raises(BadInput, match="sophia_published=True"):
        train(planted.model, items, labelled, loss, options())
    assert train(planted.model, items, labelled, loss, options(sophia_published=True)).losses
