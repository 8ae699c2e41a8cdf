import numpy as np
import pytest
import torch

from probes.expert_shift import KINDS, MEASURES, ExpertShift, RoutingSnapshot, jensen_shannon, overlap
from tests.probes.test_expert_attribution import ZOO_FACTS
from tests.zoo import MOE_CONFIGS, make, tokenizer
from workbench.concepts import FactSet
from workbench.demo.planted import plant
from workbench.errors import BadInput
from workbench.model import HookedModel
from workbench.scoring import batch_of


@pytest.fixture
def moved() -> HookedModel:
    """The planted mixture with another router in its last layer."""
    planted = plant("olmoe", 0)
    with torch.no_grad():
        router = planted.model.get_parameter("model.layers.2.mlp.gate.weight")
        router.copy_(torch.randn(router.shape, generator=torch.Generator().manual_seed(3)))
    return HookedModel(planted.model, planted.tokenizer, name="moved", check=False)


@pytest.mark.parametrize("name", MOE_CONFIGS)
def test_the_same_checkpoint_has_not_shifted(name):
    model, again = (HookedModel(make(name), tokenizer(), name=name, check=False) for _ in range(2))
    donor = ExpertShift().donor_reading().look(again, ZOO_FACTS)
    trace = ExpertShift().look(model, ZOO_FACTS, donor)
    assert trace.axes == ("layer", "measure", "fact") and trace.labels["measure"] == MEASURES
    assert trace.labels["layer"] == tuple(f"L{layer}" for layer in model.mixture_layers)
    assert (trace.values == 0).all()
    other = HookedModel(make(name, seed=1), tokenizer(), name=name, check=False)
    assert (ExpertShift().look(other, ZOO_FACTS, donor).values.mean(axis=2) > 0.01).all()


def test_only_the_layer_that_was_changed_has_shifted(mixture, moved):
    facts = mixture.concept.forget
    trace = ExpertShift().look(moved, facts, RoutingSnapshot().look(mixture.model, facts))
    by_layer = trace.values.mean(axis=2)
    assert (by_layer[:2] == 0).all()  # what enters the last router is what it was
    assert (by_layer[2] > 0.1).all() and (trace.values <= 1).all()
    here, there = (np.array(trace.notes["sent"][side]) for side in ("model", "donor"))
    assert here.sum(axis=1) == pytest.approx(mixture.model.experts_per_token, abs=1e-4)
    assert (here[:2] == there[:2]).all() and (here[2] != there[2]).any()
    assert trace.notes["donor"] == mixture.model.name and trace.notes["model"] == "moved"


def test_by_hand(mixture, moved):
    """Overlap and divergence of one fact, counted token by token."""
    fact = mixture.concept.forget.take([0], "one")
    batch, _ = batch_of(mixture.model.encode(fact.facts))
    here, there = moved.routing(batch)[2], mixture.model.routing(batch)[2]
    shares, divergences = [], []
    for i in range(int(batch.mask.sum())):
        shares.append(len(set(here.chosen[0, i].tolist()) & set(there.chosen[0, i].tolist())) / 2)
        p, q = here.logits[0, i].double().softmax(-1), there.logits[0, i].double().softmax(-1)
        m = (p + q) / 2
        divergences.append(float(((p * (p / m).log2()).sum() + (q * (q / m).log2()).sum()) / 2))
    trace = ExpertShift().look(moved, fact, RoutingSnapshot().look(mixture.model, fact)).pick("layer", "L2")
    assert trace.values[:, 0] == pytest.approx([1 - np.mean(shares), np.mean(divergences)], abs=1e-5)


def test_padding_does_not_enter(mixture, moved):
    facts = mixture.concept.forget  # rows of two lengths
    whole = ExpertShift().look(moved, facts, RoutingSnapshot().look(mixture.model, facts)).values
    for i in range(len(facts)):
        one = facts.take([i], "one")
        alone = ExpertShift().look(moved, one, RoutingSnapshot().look(mixture.model, one)).values[..., 0]
        assert np.allclose(whole[..., i], alone, atol=1e-6)


def test_the_bounds():
    one, other = np.array([1.0, 1.0, 0.0, 0.0]), np.array([0.0, 0.0, 1.0, 1.0])
    assert overlap(one, one) == 1 and overlap(one, other) == 0
    assert overlap(one, np.array([0.0, 1.0, 1.0, 0.0])) == 0.5
    assert jensen_shannon(one / 2, one / 2) == 0
    assert jensen_shannon(one / 2, other / 2) == pytest.approx(1)
    assert np.isnan(jensen_shannon(np.full(4, np.nan), other / 2))


def test_a_snapshot_says_who_is_chosen(mixture):
    facts = mixture.concept.forget
    trace = RoutingSnapshot().look(mixture.model, facts)
    assert trace.labels["kind"] == KINDS
    assert len(trace.labels["token"]) == sum(len(e.ids) for e in mixture.model.encode(facts.facts))
    assert (trace.pick("kind", "chosen").values.sum(axis=-1) == 2).all()
    assert np.allclose(trace.pick("kind", "probability").values.sum(axis=-1), 1, atol=1e-5)


def test_has_a_picture(mixture, moved):
    facts = mixture.concept.forget
    figure = ExpertShift().look(moved, facts, RoutingSnapshot().look(mixture.model, facts)).plot()
    assert len(figure.data) == len(MEASURES)


def test_refuses_what_does_not_fit(dense, mixture):
    facts = mixture.concept.forget
    donor = RoutingSnapshot().look(mixture.model, facts)
    with pytest.raises(BadInput, match="does not fit"):
        ExpertShift().look(mixture.model, mixture.concept.near, donor)
    with (
        mixture.model.wearing("x", template="Well , {prompt}"),
        pytest.raises(BadInput, match="same architecture, tokenizer, prompt"),
    ):
        ExpertShift().look(mixture.model, facts, donor)
    with pytest.raises(BadInput, match="is a dense model"):
        ExpertShift().look(dense.model, dense.concept.forget, donor)
    with pytest.raises(BadInput, match="empty"):
        RoutingSnapshot().look(mixture.model, FactSet(name="none"))
