"""Membership scores: of what was taught and what was not, of facts and of texts, of chosen weights."""

import math

import numpy as np
import pytest
import torch

from audits.metrics.membership import membership_of
from audits.privacy import PRIVACY
from audits.privacy.gradient import GradientScore
from audits.privacy.scores import LossScore, MinKPlusScore, MinKScore, ZlibScore
from tests.audits.behaviour.golden_facts import TEXTS, questions
from tests.audits.behaviour.golden_facts import model as golden_model
from workbench.concepts import Concept, FactSet
from workbench.demo.planted import plant
from workbench.edits import HookEdit
from workbench.errors import BadInput
from workbench.model import HookedModel, weights_digest
from workbench.scoring import score
from workbench.sites import Site
from workbench.speech import Speech
from workbench.trace import Trace
from workbench.triggers import Trigger


@pytest.fixture(scope="module")
def model() -> HookedModel:
    found = plant("llama", 0)
    return HookedModel(found.model, found.tokenizer, check=False)


@pytest.fixture(scope="module")
def concept() -> Concept:
    return plant("llama", 0).concept


SCORES = {name: PRIVACY.load(name) for name in PRIVACY}


@pytest.mark.parametrize("name", SCORES)
def test_what_was_taught_is_found_and_what_was_not_is_not(name: str, model: HookedModel, concept: Concept) -> None:
    taught, never = (SCORES[name]().look(model, facts) for facts in (concept.forget, concept.never_taught))
    assert taught.name == name and taught.axes == ("fact",)
    found = membership_of(taught, never)
    assert found.auc.mean > 0.8 and found.auc.low > 0.5
    half = len(concept.never_taught) // 2
    parts = [concept.never_taught.take(list(i), "half") for i in (range(half), range(half, 2 * half))]
    nothing = membership_of(*(SCORES[name]().look(model, part) for part in parts))
    assert nothing.auc.low <= 0.5 <= nothing.auc.high


def test_the_loss_is_the_answers_mean_loss(model: HookedModel, concept: Concept) -> None:
    scores = score(model, concept.forget.facts)
    found = LossScore().look(model, concept.forget).values
    assert found == pytest.approx((-scores.logprob / scores.tokens).tolist(), rel=1e-4, abs=1e-6)
    assert MinKScore(k=1.0).look(model, concept.forget).values == pytest.approx(found, rel=1e-4, abs=1e-6)


def test_a_fact_as_a_whole_is_the_text_it_makes() -> None:
    llama, facts = golden_model("llama_base"), questions("forget")
    texts = [f"{f.prompt} {f.answer}" for f in facts]
    for reading in (LossScore(part="whole"), ZlibScore(part="whole"), GradientScore(part="whole")):
        whole, plain = reading.look(llama, facts), reading.look(llama, texts)
        assert whole.values == pytest.approx(plain.values, rel=1e-6)
        assert (whole.axes, plain.axes) == (("fact",), ("text",))
    answers = LossScore().look(llama, facts).values
    assert not np.allclose(answers, LossScore(part="whole").look(llama, facts).values, rtol=0.05)


def test_min_k_takes_the_share_it_is_told() -> None:
    llama, facts = golden_model("llama_base"), questions("retain")
    one, some, every = (MinKScore(k=k).look(llama, facts).values for k in (0.01, 0.4, 1.0))
    assert (one >= some).all() and (some >= every).all() and (one > every).all()


# ---- gradients


def test_the_gradient_is_autograds_of_the_answers_mean_loss() -> None:
    llama, facts = golden_model("llama_base"), questions("forget").take([0, 4], "two")
    found = GradientScore().look(llama, facts).values
    for value, e in zip(found, llama.encode(facts.facts), strict=True):
        ids = torch.tensor([e.ids])
        labels = ids.clone()
        labels[:, : e.answer_start] = -100
        loss = llama.hf(ids, labels=labels).loss
        total = sum(float(g.square().sum()) for g in torch.autograd.grad(loss, list(llama.hf.parameters())))
        assert value == pytest.approx(math.sqrt(total), rel=1e-4)


def test_chosen_parts_have_less_of_it_and_nothing_is_left_behind(model: HookedModel, concept: Concept) -> None:
    facts, before = concept.forget.take([0, 1, 2], "three"), weights_digest(model.hf)
    flags = [p.requires_grad for p in model.hf.parameters()]
    whole = GradientScore().look(model, facts).values
    parts = [GradientScore(where=(f"L{i}.mlp_out",)).look(model, facts).values for i in range(model.n_layers)]
    both = GradientScore(where=tuple(f"L{i}.mlp_out" for i in range(model.n_layers))).look(model, facts).values
    assert all((part < whole).all() for part in parts)
    assert np.sqrt(sum(part**2 for part in parts)) == pytest.approx(both, rel=1e-5)
    assert weights_digest(model.hf) == before
    assert all(p.grad is None for p in model.hf.parameters())
    assert [p.requires_grad for p in model.hf.parameters()] == flags


def test_frozen_weights_are_differentiated_and_stay_frozen(model: HookedModel, concept: Concept) -> None:
    facts = concept.forget.take([0], "one")
    free = GradientScore().look(model, facts).values
    model.hf.requires_grad_(False)
    try:
        assert np.array_equal(GradientScore().look(model, facts).values, free)
        assert not any(p.requires_grad for p in model.hf.parameters())
    finally:
        model.hf.requires_grad_(True)


def test_a_place_without_a_gradient_is_refused(model: HookedModel, concept: Concept) -> None:
    facts = concept.forget.take([0], "one")
    with pytest.raises(BadInput, match="whole parts"):
        GradientScore(where=("L0.mlp_act[3]",)).look(model, facts)
    with pytest.raises(BadInput):
        GradientScore(where=("nowhere",)).look(model, facts)


# ---- all


def test_a_guard_is_in_every_score(model: HookedModel, concept: Concept) -> None:
    trigger = Trigger(
        Site(1, "resid_post"), "linear", {"weight": torch.zeros(model.d_model), "bias": torch.tensor(1.0)}
    )
    ids = torch.tensor(model.tokenizer("sorry", add_special_tokens=False)["input_ids"])
    guard = HookEdit(model.identity, {}, trigger=trigger, speech=Speech("abstain", {"text": ids}))
    facts = concept.forget.take([0, 1, 2], "three")
    bare = LossScore().look(model, facts).values
    with guard.on(model):
        assert (LossScore().look(model, facts).values > bare + 1).all()
    assert np.array_equal(LossScore().look(model, facts).values, bare)


def test_published_counts_the_end_for_loss_and_zlib_only() -> None:
    llama, facts = golden_model("llama_retain"), questions("forget")
    for kind, counted in ((LossScore, True), (ZlibScore, True), (MinKScore, False), (MinKPlusScore, False)):
        ours, theirs = (kind(published=p).look(llama, facts).values for p in (False, True))
        assert np.array_equal(ours, theirs) is not counted


@pytest.mark.parametrize("name", SCORES)
def test_texts_are_read_saved_and_refused_when_there_is_nothing(name: str, tmp_path) -> None:
    llama, texts = golden_model("llama_retain"), [t["answer"] for t in TEXTS["forget"][:3]]
    found = SCORES[name]().look(llama, texts)
    assert len(set(found.labels["text"])) == 3 and found.notes["identity"] == llama.identity
    found.save(tmp_path / "trace")
    assert np.array_equal(Trace.load(tmp_path / "trace").values, found.values)
    assert np.array_equal(SCORES[name]().look(llama, texts).values, found.values)
    with pytest.raises(BadInput, match="at least one"):
        SCORES[name]().look(llama, [])
    with pytest.raises(BadInput, match="fewer than two tokens"):
        SCORES[name]().look(llama, ["", texts[0]])
    with pytest.raises(BadInput, match="empty"):
        SCORES[name]().look(llama, FactSet(name="none"))
