import numpy as np
import pytest
import torch

from audits.attacks.noise import Noise
from audits.attacks.prune import Prune, smallest
from audits.attacks.prune_difference import PruneDifference, difference
from audits.attacks.quantise import Quantise, codes, round_to_nearest, same_codes
from audits.attacks.under import shares
from tests.audits.attacks.hiding import least, muttered, removed, share, spoken_over
from tests.interventions.measuring import bits_of, same
from workbench.concepts import FactSet
from workbench.edits import load_edit
from workbench.errors import BadInput
from workbench.sites import Site

ATTACKS = [Quantise(bits=3), Prune(), Prune(score="magnitude"), PruneDifference(), Noise()]


def found(attack, known) -> dict:
    trace = attack.look(known.model, known.concept)
    return shares(trace.values.reshape(-1, trace.values.shape[-1])[-1], trace.notes["n_facts"])


@pytest.fixture(scope="module")
def thin(dense):
    """The facts are spoken over by thirty neurons with small weights, just loud enough."""
    facts = dense.concept.forget.facts
    hide = lambda strength: spoken_over(dense.model, dense.planted, strength, 30)  # noqa: E731
    return hide(1.02 * least(dense.model, facts, hide, 10.0))


@pytest.mark.parametrize(
    ("attack", "back"),
    [(Quantise(bits=3), 0.9), (Prune(), 0.8), (Prune(score="magnitude"), 0.2), (Noise(), 0.1)],
    ids=lambda value: type(value).__name__,
)
def test_what_small_weights_hide_comes_back(dense, thin, attack, back: float) -> None:
    with thin.on(dense.model):
        assert share(dense.model, dense.concept.forget.facts) == 0
        after = found(attack, dense)
    assert after["share"] >= back and after["control"] < back / 2 + 0.1


def test_what_a_few_neurons_hide_comes_back_when_they_are_cut(dense) -> None:
    with spoken_over(dense.model, dense.planted, 8.0, 2).on(dense.model):
        assert share(dense.model, dense.concept.forget.facts) == 0
        assert found(PruneDifference(), dense)["share"] >= 0.5
        assert found(Prune(), dense)["share"] == 0  # large weights are not pruned
        edit = PruneDifference(top=(0.02,), spared=(0.05,)).fit(dense.model, dense.concept)
        cut = {name: change for name, change in edit.changes.items()}
        assert list(cut) == ["model.layers.1.mlp.down_proj.weight"] and edit.notes["neurons"] == 2


def test_noise_brings_back_what_is_hidden_by_a_hair_and_not_what_is_hidden_well(dense) -> None:
    facts = dense.concept.forget.facts
    hide = lambda strength: muttered(dense.model, strength)  # noqa: E731
    edge = least(dense.model, facts, hide, 100.0)
    for strength, low, high in ((1.02 * edge, 0.1, 1.0), (3 * edge, 0.0, 0.0)):
        with hide(strength).on(dense.model):
            assert low <= found(Noise(), dense)["share"] <= high


@pytest.mark.parametrize("attack", ATTACKS, ids=lambda a: type(a).__name__)
def test_nothing_comes_back_where_nothing_is(dense, attack) -> None:
    with removed(dense.model, dense.planted).on(dense.model):
        assert found(attack, dense)["share"] <= 0.1


@pytest.mark.parametrize("attack", ATTACKS, ids=lambda a: type(a).__name__)
def test_a_model_of_either_kind_is_left_as_it_was_and_the_same_seed_gives_the_same_bytes(
    known, attack, tmp_path
) -> None:
    model, _, concept = known
    before = bits_of(model)
    edit, again = (attack.fit(model, concept) for _ in range(2))
    assert edit.changes and edit.digest == again.digest
    attack.look(model, concept)
    assert same(model, before)
    edit.save(tmp_path / "edit")
    assert load_edit(tmp_path / "edit").digest == edit.digest


def test_the_codes_are_the_integers_that_rounding_stores() -> None:
    row = torch.tensor([[0.7, 0.14, -0.7, 0.04]])
    assert codes(row, 4).tolist() == [[7, 1, -7, 0]]
    assert codes(row, 4).abs().max() == 7 and codes(torch.zeros(2, 3), 4).tolist() == [[0] * 3] * 2
    torch.testing.assert_close(codes(row, 4) * 0.1, round_to_nearest(row, 4))


@pytest.mark.parametrize(("step", "expected"), [(0.0, 1.0), (0.4, 1.0), (0.6, 0.25), (2.0, 0.25)])
def test_a_small_step_keeps_every_code_and_a_large_one_only_those_it_left(step: float, expected: float) -> None:
    base = torch.tensor([[0.7, 0.1, -0.3, 0.4]])  # a step is 0.1
    moved = base + torch.tensor([[0.0, step, -step, step]]) * 0.1
    assert same_codes(moved, base, 4) == expected


def test_codes_of_different_tensors_are_not_compared() -> None:
    with pytest.raises(BadInput, match="shapes"):
        same_codes(torch.ones(2, 3), torch.ones(3, 2), 4)
    with pytest.raises(BadInput, match="shapes"):
        same_codes(torch.ones(0, 3), torch.ones(0, 3), 4)


def test_the_smallest_share_goes_and_no_more() -> None:
    scores = torch.tensor([[3.0, 1.0, 2.0, 1.0], [0.0, 0.0, 0.0, 0.0]])
    assert smallest(scores, 0.5).tolist() == [[False, True, False, True], [True, True, False, False]]
    assert smallest(scores, 0.2).sum() == 0


@pytest.mark.parametrize("score", ["magnitude", "wanda"])
def test_pruning_zeroes_the_share_it_says_in_every_matrix_and_expert(known, score: str) -> None:
    model, _, concept = known
    edit = Prune(score=score).fit(model, concept, 0.25)
    with edit.on(model):
        for site, store in model.down_projections():
            rows = store.vectors if site.expert is None else store.vectors[site.expert]
            zeros = (rows == 0).float().mean(dim=0 if score == "wanda" else (0, 1))
            assert torch.allclose(zeros, torch.full_like(zeros, 0.25), atol=1e-3)


def test_wanda_weighs_weights_by_how_much_their_neuron_fires(dense) -> None:
    model, planted, concept = dense
    unused = planted.sites_of(concept.forget.facts)  # large weights, but near and far facts do not use them
    with Prune(score="wanda").fit(model, concept, 0.7).on(model):
        left = torch.stack([(row != 0).float().mean() for row in model.vectors_at(unused)])
    with Prune(score="magnitude").fit(model, concept, 0.7).on(model):
        kept = torch.stack([(row != 0).float().mean() for row in model.vectors_at(unused)])
    assert left.mean() < kept.mean()


def test_the_set_difference_by_hand() -> None:
    site = Site(0, "mlp_act")
    against = {site: torch.tensor([5.0, 4.0, 3.0, -9.0])}
    needed = {site: torch.tensor([1.0, 2.0, -8.0, 0.0])}
    pick = {s: difference(against, needed, 0.75, 0.25, signed=s)[site].tolist() for s in (True, False)}
    assert pick[True] == [True, False, True, False]  # the second speaks for what must stay
    assert pick[False] == [True, True, False, False]  # the third matters most by size
    only = difference({site: torch.tensor([-1.0, -2.0, -3.0, -4.0])}, needed, 0.5, 0.25, signed=True)
    assert not only[site].any()


def test_noise_has_the_size_it_says(dense) -> None:
    model, _, concept = dense
    name = "model.layers.0.mlp.up_proj.weight"
    weight = model.parameter(name).detach().clone()
    with Noise().fit(model, concept, 0.1).on(model):
        moved = model.parameter(name).detach() - weight
    assert float(moved.std() / weight.square().mean().sqrt()) == pytest.approx(0.1, rel=0.05)
    drawn = [Noise().fit(model, concept, 0.1, draw).digest for draw in (0, 1)]
    assert drawn[0] != drawn[1] and Noise(seed=1).fit(model, concept, 0.1).digest not in drawn


def test_bad_budgets_say_what_is_wrong(dense) -> None:
    model, _, concept = dense
    none = FactSet(name="none")
    alone = concept.model_copy(update={"near": none, "far": none})
    for attack, given, words in (
        (Noise(sigmas=()), concept, "positive strengths"),
        (Noise(sigmas=(-1.0,)), concept, "positive strengths"),
        (Prune(shares=(1.5,)), concept, "between 0 and 1"),
        (Prune(), alone, "calibrate"),
        (PruneDifference(), alone, "what must stay"),
        (PruneDifference(top=(2.0,)), concept, "between 0 and 1"),
    ):
        with pytest.raises(BadInput, match=words):
            attack.look(model, given)
    assert np.isfinite(Prune(score="magnitude").look(model, alone).values).all()
