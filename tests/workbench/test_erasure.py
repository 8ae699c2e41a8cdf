"""LEACE: agrees with the published numbers, takes away what the theorem says, and no more."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from sklearn.linear_model import LogisticRegression

from workbench.erasure import leace, principal_axes
from workbench.errors import BadInput

GOLDEN = Path(__file__).parents[1] / "golden"
RECORDS = {record["id"]: record for record in json.loads((GOLDEN / "erasure.json").read_text())["records"]}


def one_hot(labels: torch.Tensor) -> torch.Tensor:
    """Two classes are one column, as the published code was called."""
    return labels[:, None].double() if int(labels.max()) == 1 else torch.nn.functional.one_hot(labels).double()


def telling(n: int = 200, d: int = 12, classes: int = 3, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """Two layers of stretched states that tell their labels."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(classes, (n,), generator=generator)
    means = 2 * torch.randn(classes, d, generator=generator)
    stretch = torch.logspace(0, -1.5, d)
    return (torch.randn(2, n, d, generator=generator) + means[labels]) * stretch, labels


def golden_inputs(name: str) -> tuple[torch.Tensor, torch.Tensor]:
    given = load_file(GOLDEN / "erasure.safetensors")
    if "anisotropic" in name:
        return given["leace.x_aniso"], one_hot(given["leace.z_aniso"])
    return given["leace.x"], one_hot(given["leace.z_bin" if "binary" in name else "leace.z"])


@pytest.mark.parametrize("name", sorted(RECORDS))
def test_agrees_with_the_published_code(name):
    record, (states, labels) = RECORDS[name], golden_inputs(name)
    options = record["arguments"]
    eraser = leace(
        states, labels, affine=options["affine"], shrinkage=options["shrinkage"], smallest=options["svd_tol"]
    )
    published, near = record["published"]["value"], record["tolerance"]["float64"]
    torch.testing.assert_close(eraser.matrix, torch.tensor(published["P"], dtype=torch.float64), **near)
    rows = torch.tensor(published["erased_first_rows"], dtype=torch.float64)
    torch.testing.assert_close(eraser(states)[: len(rows)], rows, **near)


def test_the_default_is_the_theorem_and_not_the_published_shrinkage():
    states, labels = golden_inputs("onehot3")
    exact, shrunk = leace(states, labels), leace(states, labels, shrinkage=True, smallest=0.01)
    centred = labels - labels.mean(dim=0)
    assert (exact(states).T @ centred).abs().max() < 1e-9 < 1e-3 < (shrunk.matrix - exact.matrix).abs().max()


def test_witness_agrees():
    theirs = pytest.importorskip("concept_erasure", reason="the published package is no dependency")
    states, labels = golden_inputs("onehot3")
    fitted = theirs.LeaceEraser.fit(states, labels)
    torch.testing.assert_close(leace(states, labels, shrinkage=True, smallest=0.01)(states), fitted(states))


def test_no_linear_reader_beats_the_commonest_label_afterwards():
    states, labels = telling()
    states = states.double()
    eraser = leace(states, one_hot(labels))
    assert eraser.rank.tolist() == [2, 2]
    for before, after in zip(states, eraser(states), strict=True):
        reader = LogisticRegression(C=1e4, tol=1e-10, max_iter=5000)
        assert reader.fit(before.numpy(), labels.numpy()).score(before.numpy(), labels.numpy()) > 0.9
        reader.fit(after.numpy(), labels.numpy())
        assert np.abs(reader.coef_ * after.std(dim=0).numpy()).max() < 1e-2
        commonest = labels.bincount().max().item() / len(labels)
        assert reader.score(after.numpy(), labels.numpy()) == pytest.approx(commonest)


def test_nothing_is_taken_where_nothing_is_told():
    states, labels = telling()
    told = one_hot(labels) - one_hot(labels).mean(dim=0)
    orthogonal = states[0].double() - states[0].double().mean(dim=0)
    orthogonal = orthogonal - told @ torch.linalg.pinv(told) @ orthogonal
    eraser = leace(orthogonal, one_hot(labels))
    assert eraser.rank == 0 and torch.equal(eraser(orthogonal), orthogonal)


def test_erasing_twice_is_erasing_once_and_the_mean_stays():
    states, labels = telling()
    states = states.double()
    once = leace(states, one_hot(labels))(states)
    torch.testing.assert_close(leace(once, one_hot(labels))(once), once)
    torch.testing.assert_close(once.mean(dim=1), states.mean(dim=1))
    linear = leace(states, one_hot(labels), affine=False)
    assert (linear(torch.zeros(2, 1, 12).double()) == 0).all()


def test_moves_states_less_than_any_other_erasure_tried():
    states, labels = telling()
    states, told = states[0].double(), one_hot(labels)
    ours = (leace(states, told)(states) - states).square().sum()
    centred = states - states.mean(dim=0)
    across = torch.linalg.qr(centred.T @ (told - told.mean(dim=0))[:, :2])[0]  # plain orthogonal projection
    plain = (centred @ across @ across.T).square().sum()
    assert ours < 0.9 * plain
    away, best = centred.T @ (told - told.mean(dim=0))[:, :2], leace(states, told).right[:, :2]
    generator = torch.Generator().manual_seed(1)
    for size in (0.0, 0.1, 0.1, 1.0, 1.0):  # every erasure of this rank takes `away` out along other readers
        reader = best + size * torch.randn(best.shape, generator=generator).double()
        taken = centred @ reader @ torch.linalg.inv(away.T @ reader) @ away.T
        moved = taken.square().sum()
        assert moved > 1.001 * ours if size else moved.item() == pytest.approx(ours.item())


def test_fewer_states_than_dimensions():
    states, labels = telling(n=20, d=50)
    eraser = leace(states, one_hot(labels))
    centred = one_hot(labels) - one_hot(labels).mean(dim=0)
    assert (eraser(states.double()).mT @ centred).abs().max() < 1e-9
    beyond = torch.linalg.qr(states[0].double().T, mode="complete")[0][:, -1]  # along nothing that was seen
    torch.testing.assert_close(eraser.matrix[0] @ beyond, beyond)


def test_axes_span_the_rows_and_no_more():
    generator = torch.Generator().manual_seed(0)
    for n, d in ((6, 9), (9, 6)):
        rows = torch.randn(3, n, 4, generator=generator).double() @ torch.randn(4, d, generator=generator).double()
        axes, spread = principal_axes(rows)
        assert ((spread > 0).sum(dim=-1) == 4).all()
        torch.testing.assert_close(rows @ axes @ axes.mT, rows)
        values = torch.linalg.svdvals(rows)[:, :4].flip(-1)
        torch.testing.assert_close(spread[spread > 0].view(3, 4), values)


def test_one_state_is_too_few():
    with pytest.raises(BadInput, match="at least two"):
        leace(torch.ones(1, 3), torch.ones(1, 1))
