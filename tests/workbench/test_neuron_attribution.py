"""Integrated gradients add up, selectivity is relative, and both together find planted neurons."""

import pytest
import torch

from workbench.concepts import Fact
from workbench.demo.planted import Planted, plant
from workbench.errors import BadInput
from workbench.model import HookedModel, weights_digest
from workbench.neuron_attribution import firing, gathered, located, path_effects, selectivity
from workbench.scoring import score
from workbench.sites import Site


@pytest.fixture(scope="module", params=["llama", "olmoe"])
def known(request: pytest.FixtureRequest) -> tuple[HookedModel, Planted]:
    made = plant(request.param, 0)
    return HookedModel(made.model, made.tokenizer), made


def split(made: Planted) -> tuple[list[Fact], list[Fact]]:
    return list(made.concept.forget), [*made.concept.near, *made.concept.far]


def test_path_effects_sum_to_what_all_mlps_add(known: tuple[HookedModel, Planted]) -> None:
    model, made = known
    facts, _ = split(made)
    whole = sum(float(effect.sum()) for effect in path_effects(model, facts, steps=40).values())
    before, full = weights_digest(model.hf), score(model, facts).logprob.mean()
    stores = [(store.weight, store.weight.detach().clone()) for _, store in model.down_projections()]
    with torch.no_grad():
        for weight, _ in stores:
            weight.zero_()
        none = score(model, facts).logprob.mean()
        for weight, old in stores:
            weight.copy_(old)
    assert weights_digest(model.hf) == before
    assert whole == pytest.approx(float(full - none), rel=0.03) and whole > 1


def test_the_model_is_left_as_it_was(known: tuple[HookedModel, Planted]) -> None:
    model, made = known
    before = weights_digest(model.hf)
    flags = [parameter.requires_grad for parameter in model.hf.parameters()]
    located(model, *[part if i == 0 else [part] for i, part in enumerate(split(made))])
    assert weights_digest(model.hf) == before
    assert [parameter.requires_grad for parameter in model.hf.parameters()] == flags


def test_it_finds_what_was_written(known: tuple[HookedModel, Planted]) -> None:
    model, made = known
    facts, rest = split(made)
    true = set(made.sites_of(facts))
    for together in (True, False):
        scores = located(model, facts, [rest], together=together)
        ranked = sorted(
            ((float(v), site.layer, site.expert, i) for site, row in scores.items() for i, v in enumerate(row)),
            key=lambda one: -one[0],
        )
        found = {Site(layer, "mlp_act", i, expert) for _, layer, expert, i in ranked[: len(true)]}
        assert len(found & true) >= 0.8 * len(true)


def test_against_itself_nothing_is_selective(known: tuple[HookedModel, Planted]) -> None:
    model, made = known
    facts, _ = split(made)
    for ratio in selectivity(model, facts, [facts]).values():
        assert (ratio <= 1).all()
    for site, most in selectivity(model, facts, [facts[:1], facts]).items():  # the loudest other set counts
        assert (most <= selectivity(model, facts, [facts])[site] + 1e-6).all()


def test_padding_does_not_fire(known: tuple[HookedModel, Planted]) -> None:
    model, made = known
    short, long = made.concept.forget.facts[0], made.concept.forget.facts[0]
    long = long.model_copy(update={"prompt": "We all know the river . " + long.prompt})
    alone, beside = firing(model, [short]), firing(model, [short, long])
    other = firing(model, [long])
    for site, values in beside.items():
        torch.testing.assert_close(values, (alone[site] + other[site]) / 2, atol=1e-5, rtol=1e-4)


def test_gathering_favours_places_that_score_together() -> None:
    scores = {Site(0, "mlp_act"): torch.tensor([3.0, 0.0]), Site(1, "mlp_act"): torch.tensor([2.0, 2.0])}
    found = gathered(scores)
    assert found[Site(0, "mlp_act")][0] == pytest.approx(9 / 7) and found[Site(1, "mlp_act")][0] == pytest.approx(8 / 7)
    nothing = gathered({site: torch.zeros(2) for site in scores})
    assert all((values == 0).all() for values in nothing.values())


def test_what_cannot_be_asked(known: tuple[HookedModel, Planted]) -> None:
    model, made = known
    facts, _ = split(made)
    with pytest.raises(BadInput, match="steps=0"):
        path_effects(model, facts, steps=0)
    with pytest.raises(BadInput, match="0 facts"):
        path_effects(model, [])
    with pytest.raises(BadInput, match="near facts at least"):
        selectivity(model, facts, [])
    with pytest.raises(BadInput, match="empty"):
        selectivity(model, facts, [[]])
