import numpy as np
import pytest
import torch

from probes.expert_attribution import ExpertAttribution, affinity
from workbench.concepts import FactSet
from workbench.errors import BadInput

GATES = {"full": None, "kept": "topk_masked", "renormalised": "topk_renormalised"}


def planted_expert(mixture, facts: FactSet) -> str:
    site = mixture.planted.sites[facts.facts[0].prompt]
    return f"L{site.layer}.expert[{site.expert}]"


@pytest.mark.parametrize("gate", GATES)
def test_affinity_is_the_published_formula(gate, golden, golden_tensors):
    record = golden["moe.expert_affinity"]
    stored = record["variants"][GATES[gate]]["value"] if GATES[gate] else record["value_by_formula"]["affinity"]
    mask = golden_tensors["moe.attention_mask"].bool()
    ours = torch.stack([affinity(layer, mask, 2, gate).mean(dim=0) for layer in golden_tensors["moe.router_logits"]])
    assert torch.allclose(ours, torch.tensor(stored, dtype=torch.float64), rtol=1e-9, atol=1e-11)
    if gate == "full":
        assert ours.argmax(dim=1).tolist() == record["value_by_formula"]["best_expert_per_layer"]


@pytest.mark.parametrize("score", ["affinity", "gradient"])
def test_finds_the_planted_expert(mixture, score):
    for facts in (mixture.concept.forget, mixture.concept.near):
        trace = ExpertAttribution(score=score).look(mixture.model, facts)
        means = dict(zip(trace.labels["site"], trace.mean("fact").values, strict=True))
        layer = planted_expert(mixture, facts).split(".")[0]
        if score == "gradient":
            assert max(means, key=means.get) == planted_expert(mixture, facts)
        if facts is mixture.concept.forget:
            in_layer = {site: value for site, value in means.items() if site.startswith(f"{layer}.")}
            assert max(in_layer, key=in_layer.get) == planted_expert(mixture, facts)


def test_gradient_finds_no_expert_where_nothing_was_planted(mixture):
    taught = ExpertAttribution(score="gradient").look(mixture.model, mixture.concept.forget)
    expert = planted_expert(mixture, mixture.concept.forget)
    never = ExpertAttribution(score="gradient").look(mixture.model, mixture.concept.never_taught)
    others = [site for site in taught.labels["site"] if site != expert]
    assert taught.pick("site", expert).values.mean() > 10 * max(
        abs(taught.pick("site", site).values.mean()) for site in others if not site.startswith("L2")
    )
    assert [str(site) for site in never.top("site", 1)] != [expert]


def test_routing_probabilities_are_shared_out_among_the_experts(mixture):
    sums = {}
    for gate in GATES:
        trace = ExpertAttribution(gate=gate).look(mixture.model, mixture.concept.forget)
        assert trace.labels["site"] == tuple(f"L{layer}.expert[{e}]" for layer in range(3) for e in range(4))
        sums[gate] = trace.values.reshape(3, 4, -1).sum(axis=1)
    assert np.allclose(sums["full"], 1, atol=1e-5)
    assert np.allclose(sums["renormalised"], 1, atol=1e-5)
    assert (sums["kept"] < 0.999).all() and (sums["kept"] >= 0.5).all()


def test_padding_does_not_enter(mixture):
    facts = mixture.concept.forget  # answers of one and of two tokens, so rows of two lengths
    together = ExpertAttribution().look(mixture.model, facts).values
    alone = [ExpertAttribution().look(mixture.model, facts.take([i], "one")).values[:, 0] for i in range(len(facts))]
    assert np.allclose(together, np.stack(alone, axis=1), atol=1e-5)


def test_refuses_a_dense_model_and_no_facts(dense, mixture):
    with pytest.raises(BadInput, match="is a dense model"):
        ExpertAttribution().look(dense.model, dense.concept.forget)
    with pytest.raises(BadInput, match="empty"):
        ExpertAttribution().look(mixture.model, FactSet(name="none"))
