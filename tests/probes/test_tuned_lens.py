import numpy as np
import pytest
import torch

from probes.lens_readings import logprob_and_rank
from probes.logit_lens import LogitLens
from probes.tuned_lens import (
    States,
    Translators,
    TunedOptions,
    divergence,
    fit_translators,
    train_translator,
    translated,
)
from tests.zoo import make, tokenizer
from workbench.concepts import FactSet
from workbench.demo.planted import plant
from workbench.errors import BadInput, RunError
from workbench.model import HookedModel
from workbench.scoring import batch_of

QUICK = TunedOptions(steps=60, lr=5e-3)


def sequences(known) -> list[tuple[int, ...]]:
    facts = (*known.concept.near, *known.concept.far, *known.concept.never_taught)
    return [e.ids for e in known.model.encode(facts)]


@pytest.fixture(scope="module")
def trained(known) -> Translators:
    return fit_translators(known.model, sequences(known), QUICK)


@pytest.fixture(scope="module")
def deep() -> HookedModel:
    """A random model whose residual stream is turned half way, which an affine translator can undo."""
    return HookedModel(make("llama"), tokenizer(), name="random", check=False)


def test_the_identity_is_the_logit_lens(known):
    concept = known.concept
    plain = LogitLens(statistic="logprob").look(known.model, concept.forget)
    untrained = LogitLens(statistic="logprob", lens="tuned", steps=0)
    tuned = untrained.look(known.model, concept.forget, near=concept.near, far=concept.far)
    assert np.array_equal(plain.values, tuned.values)
    assert all(kl["before"] == kl["after"] for kl in tuned.notes["tuned"]["divergence"].values())
    assert plain.notes["tuned"] is None


def test_training_brings_held_out_text_nearer_to_the_last_layer(known, trained):
    notes = trained.notes["divergence"]
    assert list(notes) == list(known.model.stream)[:-1]
    assert all(kl["after"] < 0.9 * kl["before"] for kl in notes.values())


def test_training_lowers_the_divergence_of_a_random_model(deep):
    generator = torch.Generator().manual_seed(0)
    rows = torch.randint(3, 290, (60, 24), generator=generator).tolist()
    found = fit_translators(deep, rows, TunedOptions(steps=150, lr=3e-3))
    late = found.notes["divergence"]["L1"]
    assert late["after"] < 0.8 * late["before"]
    states = States.of(deep, torch.randint(3, 290, (10, 24), generator=generator).tolist())  # unlike any before
    for name in ("L0", "L1"):
        plain = divergence(deep, states.by_layer[name], states.last).mean()
        assert divergence(deep, found(name, states.by_layer[name]), states.last).mean() < plain


def test_reads_at_least_as_well_where_facts_are_planted(known):
    """At the subject, in the layer where its neuron writes."""
    concept, found = known.concept, {}
    for lens in ("logit", "tuned"):
        method = LogitLens(positions="prompt", lens=lens, steps=60, lr=5e-3)
        trace = method.look(known.model, concept.forget, concept.text, concept.near, concept.far)
        found[lens] = trace.pick("position", "-2").pick("layer", "L1").values.mean()
        assert trace.pick("position", "-1").pick("layer", "L2").values.mean() > 0.9  # the model's own output
    assert found["tuned"] > 0.9 and found["tuned"] > found["logit"] - 0.05


def test_reads_what_is_written_in_another_basis(known):
    """States of the last layer, turned: the logit lens no longer reads them well, a translator does."""
    model, facts = known.model, known.concept.forget.facts
    noise = torch.randn(model.d_model, model.d_model, generator=torch.Generator().manual_seed(0))
    turn = torch.linalg.matrix_exp(0.5 * (noise - noise.T) / model.d_model**0.5)
    states = States.of(model, sequences(known))
    a, b = train_translator(model, states.last @ turn, states.last, TunedOptions(steps=150, lr=3e-3))
    batch, targets = batch_of(model.encode(facts))
    last = list(model.stream.values())[-1]
    with torch.no_grad():
        own = model.run(batch, read=[last], logits=False).acts[last][targets.row, targets.position]
        lenses = {"own": own, "logit": own @ turn, "tuned": translated(own @ turn, a, b)}
        loss = {name: float(-logprob_and_rank(model.decode(h), targets.token)[0].mean()) for name, h in lenses.items()}
    assert loss["own"] < loss["tuned"] < 0.75 * loss["logit"]


def test_finds_nothing_that_was_never_taught(known):
    concept = known.concept
    method = LogitLens(statistic="choice", lens="tuned", steps=60, lr=5e-3)
    trace = method.look(known.model, concept.never_taught, concept.text, concept.near, concept.far)
    assert trace.values.mean(axis=1).max() <= 0.4


def test_the_divergence_is_of_the_last_layer_from_the_lens(known):
    states = States.of(known.model, sequences(known)[:4])
    with torch.no_grad():
        p = known.model.decode(states.last).softmax(-1)
        q = known.model.decode(states.by_layer["L1"]).softmax(-1)
        by_hand = (p * (p / q).log()).sum(-1)
        assert torch.allclose(divergence(known.model, states.by_layer["L1"], states.last), by_hand, atol=1e-4)
        assert divergence(known.model, states.last, states.last).abs().max() < 1e-5


def test_the_same_seed_gives_the_same_and_leaves_no_trace(dense):
    rows, model = sequences(dense), dense.model
    before, state = model.parameter("lm_head.weight").detach().clone(), torch.get_rng_state()
    told: list[tuple[int, int]] = []
    few = TunedOptions(steps=5)
    one, two = (fit_translators(model, rows, few, lambda done, of: told.append((done, of))) for _ in range(2))
    other = fit_translators(model, rows, TunedOptions(steps=5, seed=1))
    assert all(torch.equal(one.a[name], two.a[name]) for name in one.a)
    assert any(not torch.equal(one.a[name], other.a[name]) for name in one.a)
    assert told == [(1, 3), (2, 3), (3, 3)] * 2
    assert torch.equal(state, torch.get_rng_state()) and torch.equal(before, model.parameter("lm_head.weight"))
    assert all(p.grad is None for p in model.hf.parameters())


def test_learns_from_no_fact_about_a_subject_that_is_read(dense):
    concept = dense.concept
    own = LogitLens(lens="tuned", steps=1)
    mixed = own.look(dense.model, concept.forget, near=concept.forget, far=concept.far).notes["tuned"]
    alone = own.look(dense.model, concept.forget, far=concept.far).notes["tuned"]
    assert mixed["train_tokens"] == alone["train_tokens"]


def test_long_texts_are_cut_and_tokens_are_limited(dense):
    rows = [tuple(range(3, 9)) * 100] * 2
    notes = fit_translators(dense.model, rows, TunedOptions(steps=0, max_tokens=700)).notes
    assert notes["train_tokens"] + notes["held_out_tokens"] == 256 + 256 + 88
    with pytest.raises(BadInput, match="got 1 within 300 tokens"):
        fit_translators(dense.model, rows, TunedOptions(steps=0, max_tokens=300))


def test_works_in_half_precision():
    planted = plant("llama", 0)
    model = HookedModel(planted.model.to(torch.bfloat16), planted.tokenizer, check=False)
    method = LogitLens(lens="tuned", steps=3)
    trace = method.look(model, planted.concept.forget, near=planted.concept.near, far=planted.concept.far)
    assert np.isfinite(trace.values).all()


def test_refuses_what_it_cannot_do(dense):
    concept = dense.concept
    with pytest.raises(BadInput, match="something else than the facts it reads"):
        LogitLens(lens="tuned").look(dense.model, concept.forget, near=concept.forget)
    with pytest.raises(RunError, match="lower learning rate"):
        fit_translators(dense.model, sequences(dense), TunedOptions(steps=30, lr=1e37))
    with pytest.raises(BadInput, match="empty"):
        LogitLens(lens="tuned").look(dense.model, FactSet(name="none"))
