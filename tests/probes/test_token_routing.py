"""Token routing: what the model did, token by token; nothing behind a text's end; the tokens an expert gets."""

import numpy as np
import pytest

from probes.expert_attribution import ExpertAttribution
from probes.token_routing import MEASURES, TokenRouting
from tests.probes.test_expert_attribution import ZOO_FACTS
from tests.zoo import MOE_CONFIGS, make, tokenizer
from workbench.concepts import FactSet
from workbench.errors import BadInput
from workbench.expert_load import load_by_fact
from workbench.expert_tokens import moved, routing_grid, tokens_of
from workbench.model import HookedModel
from workbench.scoring import batch_of, chunks
from workbench.trace import Trace


@pytest.mark.parametrize("name", MOE_CONFIGS)
def test_it_is_what_the_model_did(name):
    model = HookedModel(make(name), tokenizer(), name=name, check=False)
    trace = TokenRouting().look(model, ZOO_FACTS)
    assert trace.axes == ("measure", "fact", "layer", "token", "expert") and trace.labels["measure"] == tuple(MEASURES)
    batch, _ = batch_of(model.encode(ZOO_FACTS.facts))
    for layer, routing in model.routing(batch).items():
        for fact in range(len(ZOO_FACTS)):
            for i in range(int(batch.mask[fact].sum())):
                weight = trace.pick("measure", "weight").pick("layer", f"L{layer}").values[fact, i]
                chosen = routing.chosen[fact, batch.mask[fact]][i]
                assert sorted(np.flatnonzero(np.isfinite(weight))) == sorted(chosen.tolist())
                expected = routing.weights[fact, batch.mask[fact]][i].float().numpy()
                np.testing.assert_allclose(weight[chosen.numpy()], expected, rtol=2e-3, atol=1e-4)


def test_the_probabilities_of_a_token_sum_to_one_and_nothing_stands_behind_the_end(mixture):
    trace = TokenRouting().look(mixture.model, mixture.concept.forget)
    known = trace.pick("measure", "probability").values.astype(float)
    lengths = [len(tokens) for tokens in trace.notes["tokens"]]
    assert min(lengths) < max(lengths) == known.shape[2]
    for fact, length in enumerate(lengths):
        np.testing.assert_allclose(known[fact, :, :length].sum(-1), 1, atol=2e-3)
        assert np.isnan(trace.values[:, fact, :, length:]).all()
    first = routing_grid(trace, trace.labels["fact"][0], "1")
    assert first.chosen.sum(axis=1).tolist() == [2] * lengths[0]
    assert first.answer_start == mixture.model.encode(mixture.concept.forget.facts)[0].answer_start


def test_the_tokens_of_an_expert_add_up_to_its_load(mixture):
    facts = mixture.concept.forget
    trace = TokenRouting().look(mixture.model, facts)
    load = load_by_fact(ExpertAttribution(score="frequency").look(mixture.model, facts))
    lengths = np.array([len(tokens) for tokens in trace.notes["tokens"]])
    for layer in trace.labels["layer"]:
        for expert in trace.labels["expert"]:
            table = tokens_of({"base": trace}, layer[1:], expert)
            sent = load.pick("site", f"{layer}.expert[{expert}]").values * lengths
            assert table["base: sent"].sum() == pytest.approx(sent.sum(), abs=1e-3)
            assert (table["base: sent"] <= table["seen"]).all() and table["base: sent"].is_monotonic_decreasing
            assert not table["token"].duplicated().any()
    per_layer = load.values.reshape(len(trace.labels["layer"]), -1, len(facts)).sum(axis=1)
    np.testing.assert_allclose(per_layer, 2, atol=1e-5)  # each token has two experts


def test_a_choice_that_moved_is_counted_and_the_same_model_has_none(mixture):
    facts = mixture.concept.forget.take([0], "one")
    one, again = (TokenRouting().look(mixture.model, facts) for _ in range(2))
    label = one.labels["fact"][0]
    assert moved(routing_grid(one, label, "2"), routing_grid(again, label, "2")) == 0
    values = one.values.copy()
    free = np.flatnonzero(np.isnan(values[1, 0, 2, 0]))[0]
    held = np.flatnonzero(np.isfinite(values[1, 0, 2, 0]))[0]
    values[1, 0, 2, 0, [free, held]] = values[1, 0, 2, 0, [held, free]]
    other = Trace(one.name, values, one.axes, one.units, one.labels, one.notes)
    assert moved(routing_grid(one, label, "2"), routing_grid(other, label, "2")) == 1
    assert moved(routing_grid(one, label, "1"), routing_grid(other, label, "1")) == 0
    before, after = (tokens_of({"r": t}, "2", str(free))["r: sent"].sum() for t in (one, other))
    assert after == before + 1


def test_a_router_of_no_known_function_still_says_who_is_chosen(mixture, monkeypatch):
    monkeypatch.setattr("probes.token_routing.router_of", lambda _: None)
    trace = TokenRouting(max_facts=1).look(mixture.model, mixture.concept.forget)
    assert np.isnan(trace.values[0]).all() and trace.notes["router"] is None
    assert routing_grid(trace, trace.labels["fact"][0], "0").chosen.sum(axis=1).tolist() == [2] * trace.values.shape[3]


def test_the_budget_storage_and_what_is_refused(mixture, dense, tmp_path):
    facts = mixture.concept.forget
    trace = TokenRouting(max_facts=3).look(mixture.model, facts)
    assert trace.labels["fact"] == facts.labels[:3]
    trace.save(tmp_path / "t")
    np.testing.assert_array_equal(Trace.load(tmp_path / "t").values, trace.values)
    with pytest.raises(BadInput, match="is a dense model"):
        TokenRouting().look(dense.model, dense.concept.forget)
    with pytest.raises(BadInput, match="empty"):
        TokenRouting().look(mixture.model, FactSet(name="none", facts=()))
    with pytest.raises(BadInput, match="no mixture of experts; these are: 0, 1, 2"):
        routing_grid(trace, trace.labels["fact"][0], "7")
    with pytest.raises(BadInput, match="no expert 9"):
        tokens_of({"base": trace}, "0", "9")
    trace.notes["tokens"][0].append("more")
    with pytest.raises(BadInput, match="do not fit its numbers"):
        routing_grid(trace, trace.labels["fact"][0], "0")


def test_many_facts_in_small_pieces_read_the_same(mixture, monkeypatch):
    facts = mixture.concept.forget
    whole = TokenRouting().look(mixture.model, facts)
    monkeypatch.setattr("workbench.expert_effects.chunks", lambda encoded: chunks(encoded, 3))
    cut = TokenRouting().look(mixture.model, facts)
    np.testing.assert_allclose(cut.values.astype(float), whole.values.astype(float), atol=1e-3)
