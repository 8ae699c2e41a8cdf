import numpy as np
import pytest
import torch

from probes.concept_vectors import ConceptVectors
from probes.vector_validation import PUBLISHED_SIGMA, VectorValidation
from tests import zoo
from workbench.concepts import Fact, FactSet
from workbench.errors import BadInput
from workbench.model import HookedModel
from workbench.model import weights_digest as digest_of
from workbench.scoring import score

ONE = FactSet(name="one", facts=(Fact(subject="river", prompt="by the river", answer="house"),))


def texts(sites):
    return tuple(map(str, sites))


def rows(trace):
    return dict(zip(trace.labels["damaged"], trace.scores("damaged"), strict=True))


@pytest.fixture(scope="module")
def zeroed(known):
    """The planted vectors of the forget facts, set to zero."""
    concept = known.concept
    sites = texts(known.planted.sites_of(concept.forget.facts))
    return VectorValidation(sites=sites, damage="zero").look(known.model, concept.forget, concept.near, concept.far)


@pytest.mark.parametrize("damage", ["noise", "zero"])
def test_damaging_the_planted_vectors_takes_their_answers_and_no_others(known, damage):
    concept = known.concept
    sites = texts(known.planted.sites_of(concept.forget.facts))
    how = VectorValidation(sites=sites, damage=damage)
    trace = how.look(known.model, concept.forget, concept.near, concept.far)
    drops, said = rows(trace), trace.notes["summary"]["logprob"]
    assert drops["forget: found"] > 3 and drops["forget: random"] < 0.1
    assert drops["near: found"] < 0.2 and drops["far: found"] < 0.2
    assert said["sets"]["forget"]["found - random"]["low"] > 2
    assert said["sets"]["near"]["found - random"]["high"] < 0.5
    assert min(said["forget_less"][name]["low"] for name in ("near", "far")) > 2
    assert said["random_draws_as_bad"] == 0 and said["p_random"] == pytest.approx(1 / (how.draws + 1))
    accuracy = trace.notes["summary"]["accuracy"]["sets"]
    assert accuracy["forget"]["found"]["mean"] > 0.6
    assert accuracy["near"]["found"]["mean"] < 0.15 and accuracy["forget"]["random"]["mean"] < 0.1


def test_damaging_what_holds_nothing_of_the_concept_takes_nothing(known):
    concept = known.concept
    planted = set(known.planted.sites.values())
    empty = [site for site in known.model.random_neurons(60) if site not in planted and site.layer < 2][:10]
    trace = VectorValidation(sites=texts(empty), damage="zero").look(known.model, concept.forget, concept.near)
    assert max(abs(drop) for name, drop in rows(trace).items() if name.endswith("found")) < 0.05
    assert trace.notes["summary"]["logprob"]["forget_less"]["near"]["low"] < 0.05


def test_with_the_labels_exchanged_the_harm_is_to_the_others(known):
    concept = known.concept
    sites = texts(known.planted.sites_of(concept.near.facts))
    trace = VectorValidation(sites=sites, damage="zero").look(known.model, concept.forget, concept.near)
    drops = rows(trace)
    assert drops["near: found"] > 3 and drops["forget: found"] < 0.2
    assert trace.notes["summary"]["logprob"]["forget_less"]["near"]["high"] < -2


def test_finds_the_vectors_itself_and_takes_those_of_a_trace(known):
    concept = known.concept
    true = set(texts(known.planted.sites_of(concept.forget.facts)))
    own = VectorValidation(score="effect", vectors=10).look(known.model, concept.forget)
    assert len(true & set(own.notes["vectors"])) >= 9
    found = ConceptVectors(pool="max").look(known.model, concept.forget)
    taken = VectorValidation(vectors=3).look(known.model, concept.forget, found=found)
    assert taken.notes["vectors"] == list(found.labels["site"][:3])


def test_the_weights_are_the_same_bits_afterwards(known, monkeypatch):
    before = digest_of(known.model.hf)
    VectorValidation(vectors=4, draws=2).look(known.model, known.concept.forget)
    assert digest_of(known.model.hf) == before
    calls = []

    def fails(model, facts):
        calls.append(digest_of(model.hf))
        if len(calls) > 1:
            raise RuntimeError("in the middle")
        return score(model, facts)

    monkeypatch.setattr("probes.vector_validation.score", fails)
    with pytest.raises(RuntimeError, match="in the middle"):
        VectorValidation(vectors=4, draws=2).look(known.model, known.concept.forget)
    assert calls[0] == before != calls[1]
    assert digest_of(known.model.hf) == before


@pytest.mark.parametrize("name", ["gpt2", "gemma2", "gpt_oss", "qwen2_moe"])
@pytest.mark.parametrize("options", [{}, {"sigma": 2.0}, {"published": True}, {"damage": "zero"}])
def test_what_is_done_to_a_vector_is_what_the_options_say(name, options, monkeypatch):
    """In every way a checkpoint may store its value vectors; the other vectors of the model are left alone."""
    model = HookedModel(zoo.make(name), zoo.tokenizer(), name=name)
    every = [torch.cat([rows for _, rows in model.mlps()])]
    widths = [(mlp, len(rows)) for mlp, rows in model.mlps()]

    def seen(model, facts):
        every.append(torch.cat([rows for _, rows in model.mlps()]))
        return score(model, facts)

    monkeypatch.setattr("probes.vector_validation.score", seen)
    sites = [f"{mlp}[3]" for mlp, _ in widths[:: max(1, len(widths) // 3)]]
    how = VectorValidation(sites=tuple(sites), draws=1, **options)
    how.look(model, ONE)
    start, _, found, random = every
    changed = (found != start).any(dim=1).nonzero()[:, 0].tolist()
    places = np.cumsum([0, *(width for _, width in widths)])
    assert changed == [int(places[i]) + 3 for i in range(0, len(widths), max(1, len(widths) // 3))]
    also = (random != start).any(dim=1).nonzero()[:, 0].tolist()
    assert len(also) == len(changed) and not set(also) & set(changed)
    if how.damage == "zero":
        assert not found[changed].any() and start[changed].any()
        return
    noise, norm = (found - start)[changed].norm(dim=1), start[changed].norm(dim=1)
    expected = PUBLISHED_SIGMA * zoo.D**0.5 if how.published else how.sigma * norm
    assert torch.allclose(noise / expected, torch.ones(len(noise)), atol=0.45)
    assert len(torch.unique((noise / expected).round(decimals=4))) == len(noise)


def test_the_rows_are_the_sets_and_the_means_are_over_draws(known, zeroed):
    concept, n = known.concept, len(known.concept.forget)
    assert zeroed.labels["damaged"] == tuple(
        f"{s}: {v}" for s in ("forget", "near", "far") for v in ("found", "random")
    )
    assert zeroed.labels["fact"][:n] == tuple(f"forget {label}" for label in concept.forget.labels)
    assert np.isfinite(zeroed.values[:2, :n]).all() and np.isnan(zeroed.values[:2, n:]).all()
    assert np.isnan(zeroed.values[2:, :n]).all()
    said = zeroed.notes["summary"]["logprob"]
    assert said["draws"]["found"][0] is not None and said["draws"]["found"][1:] == [None] * 4
    assert None not in said["draws"]["random"] and len(set(said["draws"]["random"])) > 1
    assert said["sets"]["forget"]["found"]["mean"] == pytest.approx(np.nanmean(zeroed.values[0]))
    assert said["sets"]["forget"]["random"]["mean"] == pytest.approx(np.mean(said["draws"]["random"]))
    assert said["sets"]["forget"]["found"]["clusters"] == len(set(concept.forget.subjects))
    assert len(zeroed.notes["subjects"]) == len(zeroed.labels["fact"])
    assert zeroed.notes["known_before"] == {name: len(getattr(concept, name)) for name in ("forget", "near", "far")}


def test_a_set_that_was_not_given_is_not_measured(known, zeroed):
    trace = VectorValidation(vectors=2, draws=1).look(known.model, known.concept.forget, far=known.concept.far)
    assert set(trace.notes["not_measured"]) == {"near"} and zeroed.notes["not_measured"] == {}
    assert {label.split(":")[0] for label in trace.labels["damaged"]} == {"forget", "far"}


def test_accuracy_can_be_the_reading(known, zeroed):
    concept, sites = known.concept, tuple(zeroed.notes["vectors"])
    trace = VectorValidation(sites=sites, damage="zero", measure="accuracy").look(known.model, concept.forget)
    assert trace.units == "drop in share of facts" and rows(trace)["forget: found"] == 1
    assert trace.notes["summary"]["logprob"] | {"forget_less": 0} == zeroed.notes["summary"]["logprob"] | {
        "forget_less": 0,
        "sets": {"forget": zeroed.notes["summary"]["logprob"]["sets"]["forget"]},
    }


def test_draws_follow_the_seed(known):
    facts = known.concept.forget
    one, same, other = (VectorValidation(vectors=3, draws=2, seed=seed).look(known.model, facts) for seed in (0, 0, 1))
    assert np.array_equal(one.values, same.values, equal_nan=True)
    assert not np.array_equal(one.values, other.values, equal_nan=True)


def test_tells_how_far_it_is(known):
    told = []
    VectorValidation(vectors=2, draws=3, damage="zero").look(
        known.model, known.concept.forget, progress=lambda *at: told.append(at)
    )
    assert told == [(i, 4) for i in range(1, 5)]


def test_refuses_what_it_cannot_do(dense):
    model, facts = dense.model, dense.concept.forget
    found = ConceptVectors(describe=0).look(model, facts)
    with pytest.raises(BadInput, match="given twice"):
        VectorValidation(sites=("L1.mlp_act[3]",)).look(model, facts, found=found)
    with pytest.raises(BadInput, match="not a value vector"):
        VectorValidation(sites=("L1.resid_post",)).look(model, facts)
    with pytest.raises(BadInput, match="Choose fewer vectors"):
        VectorValidation(sites=tuple(f"L1.mlp_act[{i}]" for i in range(30))).look(model, facts)
    with pytest.raises(BadInput, match="is empty"):
        VectorValidation().look(model, FactSet(name="none"))
    with pytest.raises(BadInput, match="names no vector"):
        VectorValidation().look(model, facts, found=ConceptVectors(keep=0, describe=0).look(model, facts))
    with pytest.raises(BadInput, match="greater than 0"):
        VectorValidation(sigma=0)
