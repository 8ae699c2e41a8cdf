"""Controls: as many random sites of the same kind, and all of them."""

import pytest

from interventions.concept_ablation import ConceptAblation
from interventions.gradient.npo import Npo
from workbench.demo.planted import plant
from workbench.errors import BadInput
from workbench.intervention import all_like, kind_of, sites_like, sites_of_kind
from workbench.model import HookedModel
from workbench.sites import Site, parse_sites


@pytest.fixture(scope="module", params=["llama", "olmoe"])
def model(request) -> HookedModel:
    planted = plant(request.param)
    return HookedModel(planted.model, planted.tokenizer)


@pytest.fixture(scope="module")
def mixture() -> HookedModel:
    planted = plant("olmoe")
    return HookedModel(planted.model, planted.tokenizer)


def neurons(model: HookedModel) -> list[Site]:
    return model.random_neurons(7, seed=3)


def test_random_sites_are_as_many_of_the_same_kinds_and_none_of_the_given(model):
    where = [*neurons(model), Site(1, "mlp_out"), Site(0, "head", 2)]
    drawn = sites_like(model, where)
    assert sorted(map(kind_of, drawn)) == sorted(map(kind_of, where))
    assert len(set(drawn)) == len(where) and not set(drawn) & set(where)
    for site in drawn:
        model.tap(site)
        model.span(site)


def test_the_draw_follows_its_seed(model):
    where = neurons(model)
    assert sites_like(model, where, 1) == sites_like(model, where, 1) != sites_like(model, where, 2)


def test_the_draw_reaches_every_layer_and_expert(model):
    everywhere = {site.whole for site in sites_of_kind(model, ("mlp_act", True))}
    drawn = sites_like(model, sites_of_kind(model, ("mlp_act", True))[:100], seed=1)
    assert {site.whole for site in drawn} == everywhere or len(everywhere) > 3
    assert len({site.layer for site in drawn}) == model.n_layers


def test_experts_are_drawn_among_experts(mixture):
    drawn = sites_like(mixture, parse_sites(["L1.expert[0]"]))
    assert [kind_of(site) for site in drawn] == [("expert", True)]
    assert drawn != [Site(1, "expert", 0)]
    assert len(all_like(mixture, parse_sites(["L1.expert[0]"]))) == 3 * 4


def test_where_all_sites_are_given_the_draw_is_among_them(model):
    where = [Site(layer, "mlp_out") for layer in range(model.n_layers)]
    assert sorted(sites_like(model, where)) == where


def test_all_sites_are_all_of_each_kind_once(model):
    everything = all_like(model, [*neurons(model), Site(1, "attn_out")])
    experts = 4 if model.mixture_layers else 1
    assert len(everything) == len(set(everything)) == 3 * 48 * experts + 3


def test_a_method_gets_its_controls(model):
    where = neurons(model)
    controls = ConceptAblation().controls(model, where, seed=5)
    assert list(controls) == ["random sites", "all sites"]
    assert controls["random sites"][1] == sites_like(model, where, 5)


@pytest.mark.parametrize("where", [None, []])
def test_a_method_without_sites_has_none(model, where):
    with pytest.raises(BadInput, match="was not told where to act"):
        Npo().controls(model, where)
