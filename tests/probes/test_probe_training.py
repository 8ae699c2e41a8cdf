"""The batched regressions reach the optimum that scikit-learn finds one by one."""

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.multiclass import OneVsRestClassifier

from probes import probe_training
from probes.probe_training import fit, fit_binary
from workbench.errors import BadInput

RELATIONS, ANSWERS = 3, 4


def problem(rows: int = 90, width: int = 20, layers: int = 3, seed: int = 0) -> tuple[torch.Tensor, ...]:
    """Relations of different sizes, states that tell a little, dimensions of different spread."""
    generator = torch.Generator().manual_seed(seed)
    relation = torch.randint(RELATIONS, (rows,), generator=generator) * torch.randint(2, (rows,), generator=generator)
    label = relation * ANSWERS + torch.randint(ANSWERS, (rows,), generator=generator)
    means = torch.randn(RELATIONS * ANSWERS, width, generator=generator)
    states = torch.randn(layers, rows, width, generator=generator) + means[label]
    choices = (torch.arange(RELATIONS * ANSWERS) // ANSWERS)[None] == relation[:, None]
    return states * torch.logspace(0, -1, width) + 2, label, choices, relation


@pytest.mark.parametrize("width", [20, 200], ids=["more rows than dimensions", "fewer"])
@pytest.mark.parametrize("turned", [0, 128], ids=["as they are", "on their axes"])
@pytest.mark.parametrize("l2", [0.1, 10.0])
def test_coefficients_are_those_of_scikit_learn(monkeypatch, width, turned, l2):
    monkeypatch.setattr(probe_training, "TURNED", turned)
    states, label, choices, relation = problem(width=width)
    weight, bias, unfinished = fit(states, label, choices, l2)
    assert unfinished == 0
    for layer in range(len(states)):
        for which in range(RELATIONS):
            of, columns = relation == which, slice(ANSWERS * which, ANSWERS * (which + 1))
            x, y = states[layer, of].double().numpy(), label[of].numpy()
            oracle = LogisticRegression(C=1 / l2, tol=1e-9, max_iter=5000).fit(x, y)
            mine = weight[layer, :, columns].T.numpy()
            assert np.abs(mine - oracle.coef_).max() < 0.02 * np.abs(oracle.coef_).max()
            centred = bias[layer, columns] - bias[layer, columns].mean()  # a constant in all biases changes nothing
            assert np.abs(centred.numpy() - (oracle.intercept_ - oracle.intercept_.mean())).max() < 0.05
            said = (states[layer, of] @ weight[layer] + bias[layer])[:, columns].argmax(-1) + columns.start
            assert (said.numpy() == oracle.predict(x)).all()


def test_binary_readers_are_one_against_the_rest():
    states, label, choices, relation = problem()
    weight, bias, _ = fit(states, label, choices, 0.5, "binary")
    for layer in range(len(states)):
        of = relation == 0
        x, y = states[layer, of].double().numpy(), label[of].numpy()
        oracle = OneVsRestClassifier(LogisticRegression(C=2, tol=1e-9, max_iter=5000)).fit(x, y)
        for i, one in enumerate(oracle.estimators_):
            assert np.abs(weight[layer, :, i].numpy() - one.coef_[0]).max() < 0.01 * np.abs(one.coef_).max()
            assert bias[layer, i].item() == pytest.approx(one.intercept_[0], abs=0.01)
        decided = (x @ weight[layer, :, :ANSWERS].double().numpy() + bias[layer, :ANSWERS].numpy()).argmax(axis=1)
        assert (decided == oracle.predict(x)).all()


def test_two_classes_are_scikit_learns_own_regression():
    states, label, _, _ = problem()
    positive = label % 2 == 0
    weight, bias = fit_binary(states, positive, l2=0.25)
    for layer in range(len(states)):
        oracle = LogisticRegression(C=4, tol=1e-9, max_iter=5000).fit(states[layer].double().numpy(), positive.numpy())
        assert np.abs(weight[layer].numpy() - oracle.coef_[0]).max() < 0.005 * np.abs(oracle.coef_).max()
        assert bias[layer].item() == pytest.approx(oracle.intercept_[0], abs=0.01)


def test_layers_and_relations_do_not_touch_each_other():
    states, label, choices, relation = problem()
    together = fit(states, label, choices, 1.0)
    alone = fit(states[1:2, relation == 0], label[relation == 0], choices[relation == 0], 1.0)
    torch.testing.assert_close(together.weight[1:2, :, :ANSWERS], alone.weight[..., :ANSWERS], atol=1e-3, rtol=1e-3)
    other = states.clone()
    other[0], other[:, relation == 1] = 100 * torch.randn_like(other[0]), 0.0
    changed = fit(other, label, choices, 1.0)
    torch.testing.assert_close(together.weight[1:, :, :ANSWERS], changed.weight[1:, :, :ANSWERS], atol=1e-3, rtol=1e-3)
    assert not torch.allclose(together.weight[0], changed.weight[0], atol=1e-2)


def test_separable_rows_and_equal_rows_come_to_rest():
    states = torch.cat([torch.full((1, 10, 5), 3.0), torch.full((1, 10, 5), -3.0)], dim=1)
    label, both = torch.arange(20) // 10, torch.ones(20, 2, dtype=torch.bool)
    weight, _, unfinished = fit(states, label, both, 1e-3)
    assert unfinished == 0 and weight.isfinite().all() and (weight[0, :, 0] > 0).all()
    weight, bias, unfinished = fit(torch.ones(1, 20, 5), (torch.arange(20) >= 5).long(), both, 0.1)
    assert unfinished == 0 and weight.abs().max() < 1e-6  # nothing to read: only how common the classes are
    assert (bias[0, 1] - bias[0, 0]).item() == pytest.approx(np.log(3), abs=1e-3)


def test_a_training_cut_short_is_counted(monkeypatch):
    monkeypatch.setattr(probe_training, "STEPS", 1)
    states, label, choices, _ = problem()
    assert fit(states, label, choices, 0.1).unfinished > 0


def test_a_lone_class_is_left_at_zero():
    states, label, choices, relation = problem()
    choices = choices & ((relation != 2)[:, None] | (torch.arange(12) == 8))
    label = torch.where(relation == 2, 8, label)
    weight, bias, _ = fit(states, label, choices, 1.0)
    assert (weight[..., 8:] == 0).all() and (bias[..., 8:] == 0).all() and weight[..., :8].abs().min() > 0


def test_overlapping_choices_are_refused():
    states, label, _, _ = problem(rows=2)
    overlap = torch.tensor([[True, True, False], [False, True, True]])
    with pytest.raises(BadInput, match="overlap"):
        fit(states, torch.tensor([0, 1]), overlap, 1.0)
