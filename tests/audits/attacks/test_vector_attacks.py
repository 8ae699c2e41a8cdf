import numpy as np
import pytest
import torch

from audits.attacks.climb import climb
from audits.attacks.latent_perturbation import LatentPerturbation, into_ball, median_length
from audits.attacks.soft_prompt import LONGEST, SoftPrompt
from audits.attacks.under import shares
from tests.audits.attacks.hiding import least, muttered, removed, share
from tests.interventions.measuring import bits_of, same
from workbench.edits import load_edit
from workbench.errors import BadInput
from workbench.scoring import score
from workbench.sites import Site

SOFT = SoftPrompt(tokens=2, steps=40)
LATENT = LatentPerturbation(eps=(0.001, 1.0), steps=25)


def found(trace) -> dict:
    return shares(trace.values.reshape(-1, trace.values.shape[-1])[-1], trace.notes["n_facts"])


@pytest.fixture(scope="module")
def muted(dense):
    facts = dense.concept.forget.facts
    hide = lambda strength: muttered(dense.model, strength)  # noqa: E731
    return hide(1.02 * least(dense.model, facts, hide, 100.0))


@pytest.mark.parametrize(("attack", "back"), [(SOFT, 0.4), (LATENT, 0.7)], ids=["soft", "latent"])
def test_an_output_that_another_word_shouts_down_comes_back_for_facts_that_were_not_held(
    dense, muted, attack, back: float
) -> None:
    model, planted, concept = dense
    with muted.on(model):
        assert share(model, concept.forget.facts) == 0
        there = attack.look(model, concept)
    with removed(model, planted).on(model):
        gone = attack.look(model, concept)
    assert found(there)["share"] >= back > found(there)["control"] + 0.2
    assert found(gone)["share"] <= found(gone)["control"] + 0.2 and found(gone)["share"] <= 0.2
    assert np.isfinite(there.values).all()
    if attack is LATENT:
        assert there.axes == ("seed", "step", "fact") and there.labels["step"] == ("0.001", "1.0")
        assert there.values[0, 0, : len(concept.forget)].mean() < found(there)["share"]  # too small to move anything
    else:
        assert there.axes == ("seed", "fact")


def test_vectors_teach_what_they_are_fitted_on_so_only_held_out_facts_count(dense) -> None:
    model, planted, concept = dense
    held = concept.never_taught
    soft = SoftPrompt(tokens=8, steps=60).fit(model, concept, held.take([0], "one"))
    with soft[0].on(model), soft[1].on(model):
        assert float(score(model, held.facts[:1]).probability[0]) > 0.9  # nobody ever taught it


@pytest.mark.parametrize("attack", [SoftPrompt(tokens=2, steps=3), LatentPerturbation(steps=3)], ids=["soft", "latent"])
def test_either_kind_of_model_is_left_alone_and_the_edits_can_be_kept(known, attack, tmp_path) -> None:
    model, _, concept = known
    before = bits_of(model)
    edits, again = (attack.fit(model, concept, concept.never_taught) for _ in range(2))
    edits, again = (e if isinstance(e, tuple) else (e,) for e in (edits, again))
    assert [e.digest for e in edits] == [e.digest for e in again]
    attack.look(model, concept)
    assert same(model, before) and model.prompt_template == "{prompt}" and not model.guards
    losses = edits[-1].notes["losses"]
    assert len(losses) == 4 and min(losses) < losses[0]
    edits[-1].save(tmp_path / "edit")
    assert load_edit(tmp_path / "edit").digest == edits[-1].digest


def test_the_stored_soft_prompt_is_what_was_fitted(dense) -> None:
    model, _, concept = dense
    words, vectors = SOFT.fit(model, concept, concept.never_taught)
    with words.on(model), vectors.on(model):
        loss = -float(score(model, concept.never_taught.facts).logprob.mean())
    assert loss == pytest.approx(min(vectors.notes["losses"]), abs=1e-4)
    table = vectors.operators[Site(None, "embed")].tensor
    assert table.shape[0] == LONGEST and table.abs().sum(dim=1).nonzero()[:, 0].tolist() == [1, 2]  # behind <bos>


def test_the_perturbation_stays_in_its_ball(dense) -> None:
    model, _, concept = dense
    attack = LatentPerturbation(eps=(0.3,), layers=(0, 2), steps=10)
    edit = attack.fit(model, concept, concept.never_taught)
    assert set(edit.operators) == {Site(0, "resid_post"), Site(2, "resid_post")}
    encoded = model.encode(concept.never_taught.facts)
    for site, operator in edit.operators.items():
        assert 0 < float(operator.tensor.norm()) <= 0.3 * median_length(model, site, encoded) * (1 + 1e-5)
    with edit.on(model):
        loss = -float(score(model, concept.never_taught.facts).logprob.mean())
    assert loss == pytest.approx(min(edit.notes["losses"]), abs=1e-4)


def test_climbing_keeps_the_best_point_and_obeys_the_projection() -> None:
    target = torch.tensor([[3.0, 4.0]])
    square = lambda point: (point - target).square().sum()  # noqa: E731
    best, losses = climb(square, torch.zeros(1, 2), steps=50, lr=0.2, project=into_ball)
    torch.testing.assert_close(best, torch.tensor([[0.6, 0.8]]), atol=0.02, rtol=0)
    assert len(losses) == 51
    near = target + 0.1
    kept, losses = climb(square, near, steps=3, lr=50.0)  # every step leads away
    assert torch.equal(kept, near) and min(losses[1:]) > losses[0]


def test_bad_budgets(dense) -> None:
    for attack in (LatentPerturbation(eps=()), LatentPerturbation(eps=(-1.0,)), LatentPerturbation(layers=(7,))):
        with pytest.raises(BadInput):
            attack.look(dense.model, dense.concept)
