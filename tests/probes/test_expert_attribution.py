import numpy as np
import pytest
import torch

from probes.expert_attribution import ExpertAttribution, subset_overlap
from tests.zoo import LATENT, MOE_CONFIGS, make, tokenizer
from workbench.attribution import neuron_effects
from workbench.concepts import Fact, FactSet
from workbench.errors import BadInput
from workbench.expert_effects import expert_sites, gradient_effects, knockout_effects
from workbench.expert_gates import chosen_mask, gate_values, router_of, token_mean
from workbench.expert_switch import switched
from workbench.model import HookedModel
from workbench.model_experts import Routing
from workbench.scoring import batch_of, score_batch
from workbench.sites import Site
from workbench.tokens import pad

GATES = {"full": None, "kept": "topk_masked", "renormalised": "topk_renormalised", "chosen": "selection_ratio"}
SCORES = ("affinity", "frequency", "contribution", "knockout", "gradient")
SIGMOID = ("deepseek_v3",)

ZOO_FACTS = FactSet(
    name="zoo",
    facts=tuple(
        Fact(subject=subject, prompt=f"{subject} {rest}", answer=answer)
        for subject, rest, answer in (
            ("The violin", "of Marla Kent is kept in a", "house by the river"),
            ("A chemist", "reads the", "label"),
            ("The captain", "wrote that the harbour lay before", "them"),
        )
    ),
)


@pytest.fixture(scope="module", params=list(MOE_CONFIGS))
def any_mixture(request: pytest.FixtureRequest) -> HookedModel:
    return HookedModel(make(request.param), tokenizer(), name=request.param, check=False)


def planted_expert(mixture, facts: FactSet) -> str:
    site = mixture.planted.sites[facts.facts[0].prompt]
    return f"L{site.layer}.expert[{site.expert}]"


def softmax_routing(logits: torch.Tensor, k: int) -> Routing:
    weights, chosen = logits.softmax(dim=-1).topk(k, dim=-1)
    return Routing(logits, chosen, weights)


def silenced(model: HookedModel, facts: FactSet, expert: Site) -> torch.Tensor:
    """What the answers lose, by the sites of the expert's neurons and no shortcut."""
    batch, targets = batch_of(model.encode(facts.facts))
    out = {Site(expert.layer, "mlp_act", None, expert.index): torch.zeros_like}
    return score_batch(model, batch, targets).logit - score_batch(model, batch, targets, rewrite=out).logit


# ---- published numbers


@pytest.mark.parametrize("gate", GATES)
def test_traffic_is_the_published_formula(gate, golden, golden_tensors):
    record = golden["moe.expert_affinity"]
    stored = record["variants"][GATES[gate]]["value"] if GATES[gate] else record["value_by_formula"]["affinity"]
    mask = golden_tensors["moe.attention_mask"].bool()
    found = []
    for logits in golden_tensors["moe.router_logits"]:
        routing = softmax_routing(logits, 2)
        values = chosen_mask(routing) / 2 if gate == "chosen" else gate_values(routing, gate, "softmax")
        found.append(token_mean(values, mask).mean(dim=0))
    ours = torch.stack(found)
    assert torch.allclose(ours, torch.tensor(stored, dtype=torch.float64), rtol=1e-9, atol=1e-11)
    if gate == "full":
        assert ours.argmax(dim=1).tolist() == record["value_by_formula"]["best_expert_per_layer"]


# ---- planted truth


@pytest.mark.parametrize("score", ["knockout", "gradient"])
def test_the_planted_expert_is_first_over_seeds(plant_and_open, score):
    first = []
    for seed in range(4):
        known = plant_and_open("olmoe", seed)
        for facts in (known.concept.forget, known.concept.near, known.concept.far):
            found = ExpertAttribution(score=score).look(known.model, facts).top("site", 1)
            first.append(str(found[0]) == planted_expert(known, facts))
    assert np.mean(first) >= 0.9


@pytest.mark.parametrize("score", ["affinity", "contribution", "knockout", "gradient"])
def test_with_the_near_facts_taken_off_the_planted_expert_is_first(mixture, score):
    concept = mixture.concept
    trace = ExpertAttribution(score=score, contrast="near").look(mixture.model, concept.forget, near=concept.near)
    assert str(trace.top("site", 1)[0]) == planted_expert(mixture, concept.forget)
    assert trace.notes["contrast"]["near"]["facts"] == concept.near.name


def test_affinity_finds_the_planted_expert_within_its_layer(mixture):
    facts = mixture.concept.forget
    trace = ExpertAttribution(score="affinity").look(mixture.model, facts).mean("fact")
    expert = planted_expert(mixture, facts)
    in_layer = [i for i, site in enumerate(trace.labels["site"]) if site.startswith(expert.split(".")[0])]
    assert trace.labels["site"][in_layer[int(trace.values[in_layer].argmax())]] == expert


@pytest.mark.parametrize("score", ["knockout", "gradient"])
def test_finds_no_expert_where_nothing_was_planted(mixture, score):
    concept, expert = mixture.concept, planted_expert(mixture, mixture.concept.forget)
    taught = ExpertAttribution(score=score).look(mixture.model, concept.forget).pick("site", expert)
    never = ExpertAttribution(score=score).look(mixture.model, concept.never_taught).pick("site", expert)
    assert taught.values.mean() > 10 * abs(never.values.mean())


def test_wrong_answers_take_the_planted_expert_away(mixture):
    """The labels permuted: the same prompts, with answers that nobody wrote down for them."""
    facts = mixture.concept.forget
    wrong = tuple(fact.model_copy(update={"answer": fact.distractors[0], "distractors": ()}) for fact in facts)
    expert = planted_expert(mixture, facts)
    taught = ExpertAttribution().look(mixture.model, facts).pick("site", expert)
    other = ExpertAttribution().look(mixture.model, FactSet(name="wrong", facts=wrong)).pick("site", expert)
    assert taught.values.mean() > 10 * max(other.values.mean(), 1e-6)


def test_contrast_with_the_facts_themselves_is_nothing(mixture):
    facts, far = mixture.concept.forget, mixture.concept.far
    own = ExpertAttribution(contrast="near").look(mixture.model, facts, near=facts)
    assert np.abs(own.values.mean(axis=1)).max() < 1e-5
    plain = ExpertAttribution().look(mixture.model, facts, near=mixture.concept.near)
    both = ExpertAttribution(contrast="both").look(mixture.model, facts, near=facts, far=far)
    away = (plain.values.mean(axis=1) + ExpertAttribution().look(mixture.model, far).values.mean(axis=1)) / 2
    assert np.allclose(both.values, plain.values - away[:, None], atol=1e-5)
    assert plain.notes["contrast"] == {}


# ---- every architecture


def test_a_knock_out_is_the_loss_without_the_experts_neurons(any_mixture):
    effects = knockout_effects(any_mixture, ZOO_FACTS.facts)
    sites = expert_sites(any_mixture)
    assert effects.shape == (len(sites), len(ZOO_FACTS)) and effects.abs().max() > 1e-3
    if any_mixture.name == "gpt_oss":  # silent neurons leave its bias, a knock-out does not
        return
    for i in (0, len(sites) // 2, len(sites) - 1):
        assert torch.allclose(effects[i], silenced(any_mixture, ZOO_FACTS, sites[i]), atol=1e-4)


def test_a_knock_out_takes_the_bias_too():
    model = HookedModel(make("gpt_oss"), tokenizer(), name="gpt_oss", check=False)
    store, sites = model.value_vectors(1), expert_sites(model)
    effects = knockout_effects(model, ZOO_FACTS.facts)
    expert = next(s for s in sites if s.layer == 1 and effects[sites.index(s)].abs().max() > 1e-3)
    weight, bias = model.parameter(store.name), model.parameter(store.bias)
    before = (weight.detach().clone(), bias.detach().clone())
    batch, targets = batch_of(model.encode(ZOO_FACTS.facts))
    intact = score_batch(model, batch, targets).logit
    with torch.no_grad():
        weight[expert.index] = 0
        bias[expert.index] = 0
    edited = score_batch(model, batch, targets).logit
    with torch.no_grad():
        weight.copy_(before[0])
        bias.copy_(before[1])
    assert torch.allclose(effects[sites.index(expert)], intact - edited, atol=1e-4)


def test_the_gradient_is_the_slope_of_a_slow_knock_out(any_mixture):
    batch, targets = batch_of(any_mixture.encode(ZOO_FACTS.facts))
    layer = any_mixture.mixture_layers[-1]
    slopes = gradient_effects(any_mixture, ZOO_FACTS.facts)
    step, n_experts = 1e-2, any_mixture.anatomy.mixtures[layer].n_experts
    for i, site in enumerate(expert_sites(any_mixture)):
        if site.layer != layer:
            continue
        ends = []
        for factor in (1 + step, 1 - step):
            factors = torch.ones(len(ZOO_FACTS), n_experts)
            factors[:, site.index] = factor
            with switched(any_mixture, {layer: factors}):
                ends.append(score_batch(any_mixture, batch, targets).logit)
        assert torch.allclose(slopes[i], (ends[0] - ends[1]) / (2 * step), atol=2e-2, rtol=2e-2)


def test_the_gradient_is_that_of_the_neurons_added_up(any_mixture):
    if any_mixture.name == "gpt_oss":  # with its bias it is more than its neurons
        return
    by_neuron = neuron_effects(any_mixture, ZOO_FACTS.facts)
    ours = gradient_effects(any_mixture, ZOO_FACTS.facts).mean(dim=1)
    theirs = torch.stack([e.sum() for site, e in by_neuron.items() if site.expert is not None])
    assert torch.allclose(ours, theirs, atol=1e-4, rtol=1e-3)


def test_every_router_is_understood(any_mixture):
    batch, _ = batch_of(any_mixture.encode(ZOO_FACTS.facts))
    routing = any_mixture.routing(batch)
    assert router_of(routing.values()) == ("sigmoid" if any_mixture.name in SIGMOID else "softmax")
    sums = {}
    for gate in ("full", "kept", "renormalised", "used"):
        trace = ExpertAttribution(score="affinity", gate=gate).look(any_mixture, ZOO_FACTS)
        sums[gate] = trace.values.reshape(len(any_mixture.mixture_layers), -1, len(ZOO_FACTS)).sum(axis=1)
    assert np.allclose(sums["full"], 1, atol=1e-5) and np.allclose(sums["renormalised"], 1, atol=1e-5)
    assert (sums["kept"] < 0.999).all() and (sums["kept"] > 0.1).all()
    frequency = ExpertAttribution(score="frequency").look(any_mixture, ZOO_FACTS).values
    shares = frequency.reshape(len(any_mixture.mixture_layers), -1, len(ZOO_FACTS)).sum(axis=1)
    assert np.allclose(shares, 1, atol=1e-5)
    used = torch.stack([one.weights.sum(dim=-1) for one in routing.values()])
    tokens = torch.stack([token_mean(layer[..., None], batch.mask)[:, 0] for layer in used])
    assert np.allclose(sums["used"], tokens.numpy(), atol=1e-5)
    if any_mixture.name == "deepseek_v3":
        assert not np.allclose(sums["used"], 1, atol=0.1)  # its weights are scaled


def test_the_contributions_are_what_the_experts_give(any_mixture):
    """Of one token: the expert that is not chosen adds nothing; a chosen one its weight times its output."""
    model, layer = any_mixture, any_mixture.mixture_layers[-1]
    fact = ZOO_FACTS.take([1], "one")
    batch, _ = batch_of(model.encode(fact.facts))
    routing, store = model.routing(batch)[layer], model.value_vectors(layer)
    norms = ExpertAttribution(score="contribution").look(model, fact)
    for e in range(model.anatomy.mixtures[layer].n_experts):
        site = Site(layer, "mlp_act", None, e)
        with torch.no_grad():
            out = model.run(batch, read=[site], logits=False).acts[site][0] @ store.vectors[e]
            out = out if store.bias is None else out + model.parameter(store.bias)[e]
        weight = gate_values(routing, "used", None)[0, :, e]
        expected = (weight[:, None] * out).norm(dim=-1).mean()
        found = norms.pick("site", f"L{layer}.expert[{e}]").values[0]
        assert found == pytest.approx(float(expected), rel=1e-4, abs=1e-6)


@pytest.mark.parametrize("score", SCORES)
def test_every_score_reads_every_mixture(any_mixture, score):
    trace = ExpertAttribution(score=score).look(any_mixture, ZOO_FACTS)
    layers = range(LATENT["first_k_dense_replace"], 3) if any_mixture.name.startswith("deepseek") else range(3)
    assert trace.labels["site"] == tuple(f"L{layer}.expert[{e}]" for layer in layers for e in range(4))
    assert np.isfinite(trace.values).all() and trace.values.std() > 0


# ---- the rest


@pytest.mark.parametrize("score", SCORES)
def test_padding_and_company_do_not_enter(mixture, score):
    facts = mixture.concept.forget  # answers of one and of two tokens, so rows of two lengths
    method = ExpertAttribution(score=score)
    together = method.look(mixture.model, facts).values
    alone = [method.look(mixture.model, facts.take([i], "one")).values[:, 0] for i in range(len(facts))]
    assert np.allclose(together, np.stack(alone, axis=1), atol=2e-5)


def test_batches_of_any_size_give_the_same(mixture, monkeypatch):
    facts = mixture.concept.forget.facts
    whole = knockout_effects(mixture.model, facts), gradient_effects(mixture.model, facts)
    monkeypatch.setattr("workbench.expert_effects.CHUNK", 3)
    monkeypatch.setattr("workbench.expert_effects.BACKWARD_ROWS", 3)
    told: list[tuple[int, int]] = []
    parts = knockout_effects(mixture.model, facts, lambda done, of: told.append((done, of)))
    assert torch.allclose(whole[0], parts, atol=1e-5)
    assert torch.allclose(whole[1], gradient_effects(mixture.model, facts), atol=1e-5)
    assert told == [(i + 1, 12) for i in range(12)]


def test_passes_that_begin_in_the_middle_change_nothing(mixture, monkeypatch):
    facts = mixture.concept.forget.facts
    late = knockout_effects(mixture.model, facts)
    monkeypatch.setattr("workbench.expert_effects.can_start_late", lambda model: False)
    assert torch.allclose(late, knockout_effects(mixture.model, facts), atol=1e-5)


def test_the_model_is_as_before(mixture):
    batch, _ = batch_of(mixture.model.encode(mixture.concept.forget.facts))
    with torch.no_grad():
        before = mixture.model.run(batch).logits
        for score in SCORES:
            ExpertAttribution(score=score).look(mixture.model, mixture.concept.forget)
        assert torch.equal(mixture.model.run(batch).logits, before)
    assert all(p.requires_grad and p.grad is None for p in mixture.model.hf.parameters())


def test_a_factor_of_one_changes_no_bit_and_no_other_row(any_mixture):
    batch = pad([[0, 5, 9, 17, 33], [0, 8, 3, 41, 7]])
    layer = any_mixture.mixture_layers[0]
    factors = torch.ones(2, any_mixture.anatomy.mixtures[layer].n_experts)
    with torch.no_grad():
        plain = any_mixture.run(batch).logits
        with switched(any_mixture, {layer: factors}):
            assert torch.equal(any_mixture.run(batch).logits, plain)
        with switched(any_mixture, {layer: factors * torch.tensor([[0.0], [1.0]])}):
            half = any_mixture.run(batch).logits
    assert torch.allclose(half[1], plain[1], atol=1e-6) and not torch.allclose(half[0], plain[0], atol=1e-3)


def test_a_subset_of_the_tokens(mixture):
    facts = mixture.concept.forget
    note = ExpertAttribution(subset_tokens=20, subset_top=3).look(mixture.model, facts).notes["subset"]
    assert note["tokens"] == 20 and note["top"] == 3 and 1 / 3 <= note["overlap"] <= 1
    every = ExpertAttribution(subset_tokens=10_000).look(mixture.model, facts).notes["subset"]
    assert every["overlap"] is None and "all facts" in every["why"]
    assert ExpertAttribution().look(mixture.model, facts).notes["subset"] is None


def test_overlap_of_a_subset_with_the_whole():
    lengths = np.full(4, 10)
    agreed = np.tile(np.arange(6.0)[:, None], (1, 4))
    assert subset_overlap(agreed, lengths, 10, 2, 0) == 1.0
    split = np.zeros((6, 4))  # one fact speaks for experts 0 and 1 with a loud voice, the others for 2 and 3
    split[:2, 0], split[2:4, 1:] = 30, 1
    assert subset_overlap(split, lengths, 10, 2, 0) == pytest.approx(0.25, abs=0.2)
    assert subset_overlap(split, lengths, 31, 2, 0) == 1.0


def test_a_router_of_another_kind_is_refused(mixture):
    batch, _ = batch_of(mixture.model.encode(mixture.concept.forget.facts))
    true = mixture.model.routing(batch)[1]
    strange = Routing(true.logits, true.chosen, true.weights.flip(-1) ** 3 + torch.rand_like(true.weights))
    assert router_of([true]) == "softmax" and router_of([strange]) is None
    with pytest.raises(BadInput, match="gate='used'"):
        gate_values(strange, "kept", None)
    assert gate_values(strange, "renormalised", None).sum(dim=-1).allclose(torch.ones(()), atol=1e-5)


def test_refuses_what_it_cannot_do(dense, mixture):
    for score in SCORES:
        with pytest.raises(BadInput, match="is a dense model"):
            ExpertAttribution(score=score).look(dense.model, dense.concept.forget)
    with pytest.raises(BadInput, match="empty"):
        ExpertAttribution().look(mixture.model, FactSet(name="none"))
    with pytest.raises(BadInput, match="needs far facts"):
        ExpertAttribution(contrast="both").look(mixture.model, mixture.concept.forget, near=mixture.concept.near)
    with pytest.raises(BadInput, match="no mixture"), switched(mixture.model, {7: torch.ones(1, 4)}):
        pass
