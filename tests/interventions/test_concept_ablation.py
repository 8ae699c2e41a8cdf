import pytest
import torch

from interventions.concept_ablation import ConceptAblation
from workbench.demo.planted import plant
from workbench.errors import BadInput
from workbench.model import HookedModel
from workbench.scoring import score
from workbench.sites import Site


@pytest.fixture(scope="module", params=["llama", "olmoe"])
def planted(request: pytest.FixtureRequest):
    found = plant(request.param, 0)
    return HookedModel(found.model, found.tokenizer, check=False), found


def known(model: HookedModel, found, edit) -> dict[str, float]:
    with edit.on(model):
        return {
            name: float(score(model, getattr(found.concept, name).facts).probability.mean())
            for name in ("forget", "near", "far")
        }


@pytest.mark.parametrize("options", [{"mode": "zero"}, {"mode": "noise"}, {"mode": "shrink", "keep": 0.0}])
def test_at_the_true_sites_it_removes_the_facts_and_only_them(planted, options) -> None:
    model, found = planted
    edit = ConceptAblation(**options).fit(model, found.concept, found.sites_of(found.concept.forget.facts))
    after = known(model, found, edit)
    assert after["forget"] < 0.1
    assert after["near"] > 0.8  # noise of six times the norm disturbs a little wherever the neuron stirs
    assert after["far"] > 0.8


def test_random_neurons_remove_less(planted) -> None:
    model, found = planted
    true = found.sites_of(found.concept.forget.facts)
    random = [s for s in model.random_neurons(len(true) + len(found.sites), 3) if s not in found.sites.values()][
        : len(true)
    ]
    assert known(model, found, ConceptAblation(mode="zero").fit(model, found.concept, random))["forget"] > 0.8


def test_given_layers_only_it_finds_the_planted_neurons_itself(planted) -> None:
    model, found = planted
    layers = [Site(layer, "resid_post") for layer in range(model.n_layers)]
    true = {str(site) for site in found.sites_of(found.concept.forget.facts)}
    edit = ConceptAblation(mode="zero", count=len(true)).fit(model, found.concept, layers)
    assert set(edit.notes["neurons"]) == true


def test_only_the_neurons_asked_for_change(planted) -> None:
    model, found = planted
    site = found.sites_of(found.concept.forget.facts)[0]
    edit = ConceptAblation(mode="zero").fit(model, found.concept, [site])
    (name,) = edit.changes
    before = model.parameter(name).detach().clone()
    with edit.on(model):
        moved = (model.parameter(name) != before).any(dim=-2)  # columns: neurons
    where = moved.nonzero().tolist()
    assert where == [[site.index] if site.expert is None else [site.expert, site.index]]


def test_noise_is_scaled_by_the_vector_and_published_noise_is_absolute(planted) -> None:
    model, found = planted
    generator = torch.Generator().manual_seed(0)
    small, large = torch.full((4096,), 1e-3), torch.full((4096,), 1.0)
    added = [float((ConceptAblation(sigma=6).damaged(v, generator) - v).norm() / v.norm()) for v in (small, large)]
    assert added == pytest.approx([6, 6], rel=0.1)
    published = [float((ConceptAblation(published=True).damaged(v, generator) - v).norm()) for v in (small, large)]
    assert published == pytest.approx([6.4, 6.4], rel=0.1)


def test_the_same_seed_gives_the_same_edit(planted) -> None:
    model, found = planted
    where = found.sites_of(found.concept.forget.facts)
    digests = [ConceptAblation(seed=seed).fit(model, found.concept, where).digest for seed in (0, 0, 1)]
    assert digests[0] == digests[1] != digests[2]


@pytest.mark.parametrize("where", [[], [Site(None, "embed")]])
def test_without_a_layer_it_says_what_it_needs(planted, where) -> None:
    model, found = planted
    with pytest.raises(BadInput, match=r"L5\.mlp_act\[412\].*L2\.expert\[3\]"):
        ConceptAblation().fit(model, found.concept, where)


def test_neurons_that_do_not_exist_are_refused(planted) -> None:
    model, found = planted
    inside = 0 if model.mixture_layers else None
    for site in (
        Site(9, "mlp_act", 0, inside),
        Site(0, "mlp_act", 9999, inside),
        Site(0, "mlp_act", 0, None if inside == 0 else 0),
        Site(0, "mlp_act", 0, 99),
    ):
        with pytest.raises(BadInput, match="L"):
            ConceptAblation().fit(model, found.concept, [site])
