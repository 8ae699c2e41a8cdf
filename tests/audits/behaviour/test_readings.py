"""Readings of behaviour on models whose facts are planted: high where taught, low where not, and told by guards."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from audits.behaviour import BEHAVIOUR
from audits.behaviour.answers import Accuracy, AnswerProbability
from audits.behaviour.fluency import Gibberish, NgramEntropy
from audits.behaviour.generations import Generations
from audits.behaviour.kl_to_base import KlToBase, NextTokens
from audits.behaviour.memorisation import ExactMemorisation, ExtractionStrength
from audits.behaviour.muse import KnowMem, VerbMem
from audits.behaviour.options import ChoiceAccuracy, TruthRatio, candidates
from audits.behaviour.overlap import Bleu, ExactMatch, RougeL
from audits.behaviour.rwku import RwkuRecall, by_kind
from interventions.concept_ablation import ConceptAblation
from tests.audits.behaviour.golden_facts import model as golden_model
from tests.audits.behaviour.golden_facts import questions
from workbench.concepts import Concept, Fact, FactSet
from workbench.demo.planted import Planted, plant
from workbench.edits import HookEdit, PromptEdit
from workbench.errors import BadInput
from workbench.model import HookedModel
from workbench.scoring import score
from workbench.sites import Site
from workbench.speech import Speech
from workbench.tokens import pad
from workbench.trace import Trace
from workbench.triggers import Trigger

SHORT = 4
"""Tokens said; planted answers are shorter."""


@pytest.fixture(scope="module")
def found() -> Planted:
    return plant("llama", 0)


@pytest.fixture(scope="module")
def model(found: Planted) -> HookedModel:
    return HookedModel(found.model, found.tokenizer, check=False)


@pytest.fixture(scope="module")
def concept(found: Planted) -> Concept:
    return found.concept


def abstaining(model: HookedModel) -> HookEdit:
    """A guard that says `sorry` to everything."""
    trigger = Trigger(
        Site(1, "resid_post"), "linear", {"weight": torch.zeros(model.d_model), "bias": torch.tensor(1.0)}
    )
    ids = model.tokenizer("sorry", add_special_tokens=False)["input_ids"]
    return HookEdit(model.identity, {}, trigger=trigger, speech=Speech("abstain", {"text": torch.tensor(ids)}))


KNOWING = {
    "truth_ratio": TruthRatio(),
    "truth_ratio_published": TruthRatio(published=True),
    "choice": ChoiceAccuracy(),
    "extraction_strength": ExtractionStrength(),
    "exact_memorisation": ExactMemorisation(),
    "rouge_l": RougeL(max_new_tokens=SHORT),
    "exact_match": ExactMatch(max_new_tokens=SHORT),
    "bleu": Bleu(max_new_tokens=SHORT),
    "rwku_recall": RwkuRecall(max_new_tokens=SHORT, published=False),
    "probability_published": AnswerProbability(normalise="token"),
}


@pytest.mark.parametrize("name", KNOWING)
def test_taught_facts_read_higher_than_never_taught_ones(name: str, model: HookedModel, concept: Concept) -> None:
    taught, never = (KNOWING[name].look(model, facts) for facts in (concept.forget, concept.never_taught))
    assert np.nanmean(taught.values) > np.nanmean(never.values) + 0.3
    assert taught.axes == ("fact",) and taught.notes["subjects"] == list(concept.forget.subjects)
    assert ((taught.values >= 0) & (taught.values <= 1)).all()


@pytest.mark.parametrize("name", KNOWING)
def test_ablating_what_was_planted_lowers_it(name: str, model: HookedModel, found: Planted) -> None:
    concept, before = found.concept, KNOWING[name].look(model, found.concept.forget).values
    edit = ConceptAblation(mode="zero").fit(model, concept, found.sites_of(concept.forget.facts))
    with edit.on(model):
        after = KNOWING[name].look(model, concept.forget).values
        near = KNOWING[name].look(model, concept.near).values
    assert after.mean() < before.mean() - 0.3
    assert near.mean() > after.mean() + 0.2
    assert np.array_equal(KNOWING[name].look(model, concept.forget).values, before)


def test_exact_memorisation_of_one_token_is_greedy_accuracy(model: HookedModel, concept: Concept) -> None:
    facts = FactSet(name="both", facts=concept.forget.facts + concept.never_taught.facts)
    single = (score(model, facts.facts).tokens == 1).numpy()
    accuracy = Accuracy().look(model, facts).values
    for reading in (ExactMemorisation(), ExtractionStrength()):
        found = reading.look(model, facts).values
        assert np.array_equal(found[single], accuracy[single])
        assert np.array_equal(found == 1, accuracy == 1)


def test_exact_match_of_what_is_said_agrees_with_greedy_accuracy(model: HookedModel, concept: Concept) -> None:
    facts = FactSet(name="both", facts=concept.forget.facts + concept.never_taught.facts)
    said = ExactMatch(max_new_tokens=8).look(model, facts).values
    scored = Accuracy().look(model, facts).values
    assert 0 < scored.mean() < 1
    assert np.array_equal(said, scored)


# ---- options


def asked(answer: str = "chemist", **more: object) -> Fact:
    return Fact(subject="Ada", prompt="The job of Ada is", answer=answer, **more)


def test_candidates_are_the_choices_their_letters_or_the_distractors() -> None:
    assert candidates(asked(distractors=("cook", "clerk"))) == ("chemist", "cook", "clerk")
    assert candidates(asked(choices=("cook", "chemist"))) == ("chemist", "cook")
    assert candidates(asked("B", choices=("cook", "chemist", "clerk"))) == ("B", "A", "C")


def test_abstaining_leaves_ties_and_ties_are_chance(model: HookedModel, concept: Concept) -> None:
    facts = FactSet(name="one token", facts=tuple(f for f in concept.forget if _one_token_each(model, f)))
    assert len(facts) > 3
    with abstaining(model).on(model):
        ours = ChoiceAccuracy().look(model, facts)
        published = ChoiceAccuracy(published=True).look(model, facts)
    chance = np.array([1 / len(f.candidates) for f in facts])
    assert ours.values == pytest.approx(chance)
    assert ours.notes["chance"] == pytest.approx(chance.mean())
    assert published.values.mean() > ours.values.mean() + 0.3


def _one_token_each(model: HookedModel, fact: Fact) -> bool:
    given = [fact.model_copy(update={"answer": words}) for words in fact.candidates]
    return len(given) > 1 and {len(e.answer) for e in model.encode(given)} == {1}


@pytest.mark.parametrize("normalise", ["token", "answer"])
def test_the_choice_is_the_likeliest_candidate(normalise: str, model: HookedModel, concept: Concept) -> None:
    facts, expected = FactSet(name="both", facts=concept.never_taught.facts + concept.forget.facts), []
    for fact in facts:
        scores = score(model, [fact.model_copy(update={"answer": words}) for words in fact.candidates])
        each = scores.logprob / scores.tokens if normalise == "token" else scores.logprob
        expected.append(float(each.argmax() == 0))
    found = ChoiceAccuracy(normalise=normalise).look(model, facts).values
    assert found.tolist() == expected
    assert 0 < np.mean(expected) < 1


def test_a_long_answer_is_at_a_loss_unless_tokens_are_averaged() -> None:
    llama, row = golden_model("llama_base"), questions("forget").facts[0]
    known, cut = row.answer, " ".join(row.answer.split()[:1])
    facts = FactSet(name="x", facts=(row.model_copy(update={"answer": known, "distractors": (cut,)}),))
    by_token, by_answer = (ChoiceAccuracy(normalise=n).look(llama, facts).values[0] for n in ("token", "answer"))
    assert (by_token, by_answer) == (1, 0)


def test_facts_without_wrong_answers_are_missing_or_refused(model: HookedModel, concept: Concept) -> None:
    some = concept.forget.facts[:2]
    bare = some[0].model_copy(update={"distractors": ()})
    mixed = FactSet(name="mixed", facts=(bare, some[1]))
    for reading in (TruthRatio(), ChoiceAccuracy()):
        values = reading.look(model, mixed).values
        assert np.isnan(values[0]) and np.isfinite(values[1])
        with pytest.raises(BadInput, match="distractors"):
            reading.look(model, FactSet(name="bare", facts=(bare,)))


def test_the_rewording_is_what_the_truth_ratio_compares(model: HookedModel, concept: Concept) -> None:
    fact = concept.forget.facts[0]
    turned = fact.model_copy(update={"reworded_answer": fact.distractors[0], "distractors": (fact.answer,)})
    plain = fact.model_copy(update={"distractors": fact.distractors[:1]})
    straight, back = (
        TruthRatio(score="ratio").look(model, FactSet(name="x", facts=(f,))).values[0] for f in (plain, turned)
    )
    assert straight * back == pytest.approx(1, rel=1e-4)
    assert straight < 0.5 < back


# ---- generations


def test_a_stored_generation_gives_the_same_as_a_new_one(model: HookedModel, concept: Concept) -> None:
    said = Generations(max_new_tokens=SHORT).look(model, concept.forget)
    for reading in (RougeL(max_new_tokens=SHORT), Bleu(max_new_tokens=SHORT), NgramEntropy(max_new_tokens=SHORT)):
        fresh, stored = reading.look(model, concept.forget), reading.look(model, concept.forget, said)
        assert np.array_equal(fresh.values, stored.values)
        assert stored.notes["text"] == said.notes["text"]


def test_a_generation_of_something_else_is_refused(model: HookedModel, concept: Concept) -> None:
    said = Generations(max_new_tokens=SHORT).look(model, concept.forget)
    others = (
        (RougeL(max_new_tokens=SHORT), concept.near, said),
        (RougeL(max_new_tokens=SHORT + 1), concept.forget, said),
        (RougeL(max_new_tokens=SHORT), concept.forget, replace(said, notes={**said.notes, "identity": "?"})),
        (RougeL(max_new_tokens=SHORT), concept.forget, replace(said, name="accuracy")),
    )
    for reading, facts, stored in others:
        with pytest.raises(BadInput, match="Leave out `said`"):
            reading.look(model, facts, stored)


def test_more_tokens_than_the_context_has_are_not_asked_for() -> None:
    llama = golden_model("llama_base")
    facts = questions("forget")
    room = llama.hf.config.max_position_embeddings - max(len(llama.encode([f])[0].ids) for f in facts)
    said = Generations(max_new_tokens=room + 500).look(llama, facts)
    assert said.values.max() <= room + 60


def test_a_guard_changes_what_is_said(model: HookedModel, concept: Concept) -> None:
    with abstaining(model).on(model):
        said = Generations(max_new_tokens=SHORT).look(model, concept.forget)
        recall = RougeL(max_new_tokens=SHORT).look(model, concept.forget, said).values
    first = model.tokenizer("sorry", add_special_tokens=False)["input_ids"][:SHORT]
    assert all(text.startswith(model.tokenizer.decode(first).strip()) for text in said.notes["text"])
    assert recall.max() == 0


def test_a_prompt_edit_is_in_the_prompt(model: HookedModel, concept: Concept) -> None:
    facts = concept.forget.take([0, 1], "two")
    plain = Generations(max_new_tokens=SHORT).look(model, facts).notes["text"]
    reversed_set = FactSet(
        name="by hand", facts=tuple(f.model_copy(update={"prompt": f"{f.subject} {f.prompt}"}) for f in facts)
    )
    with PromptEdit(model.identity, {}, template="{subject} {prompt}").on(model):
        edited = Generations(max_new_tokens=SHORT).look(model, facts).notes["text"]
    assert edited == Generations(max_new_tokens=SHORT).look(model, reversed_set).notes["text"]
    assert plain == Generations(max_new_tokens=SHORT).look(model, facts).notes["text"]


# ---- MUSE and RWKU


def test_knowmem_shows_examples_of_others_only(model: HookedModel, concept: Concept) -> None:
    fact = concept.forget.facts[0]
    near = FactSet(name="near", facts=(fact, *concept.near.facts[:2]))
    prompt = KnowMem(shots=2)._prompt(fact, near)
    shown = "".join(f"Question: {n.prompt}\nAnswer: {n.answer}\n\n" for n in concept.near.facts[:2])
    assert prompt == f"{shown}Question: {fact.prompt}\nAnswer:"
    assert KnowMem(shots=1, published=True)._prompt(fact, near).startswith(f"Question: {fact.prompt}\n")
    with pytest.raises(BadInput, match="there are 0 near facts"):
        KnowMem(shots=1).look(model, concept.forget)
    with pytest.raises(BadInput, match="shots=0"):
        KnowMem(shots=3)._prompt(fact, near)


def test_verbmem_cuts_the_truth_to_what_may_be_said(model: HookedModel, concept: Concept) -> None:
    found = VerbMem(max_new_tokens=1).look(model, concept.forget)
    first = [e.answer[:1] for e in model.encode(concept.forget.facts)]
    assert found.notes["truth"] == [model.tokenizer.decode(list(ids)).strip() for ids in first]
    assert found.values.mean() > 0.9


def test_rwku_is_read_apart_by_kind(model: HookedModel, concept: Concept) -> None:
    def of(facts: FactSet, kind: str) -> tuple[Fact, ...]:
        return tuple(f.model_copy(update={"kind": kind}) for f in facts.facts[:4])

    facts = FactSet(name="both", facts=of(concept.forget, "qa") + of(concept.never_taught, "cloze"))
    trace = RwkuRecall(max_new_tokens=SHORT, published=False).look(model, facts)
    kinds = by_kind(trace)
    assert list(kinds) == ["qa", "cloze"]
    assert kinds["qa"] == pytest.approx(trace.values[:4].mean()) and kinds["qa"] > kinds["cloze"]


# ---- fluency


def test_entropy_tells_repetition_from_speech() -> None:
    llama = golden_model("llama_base")
    facts = questions("forget")
    said = Generations(max_new_tokens=16).look(llama, facts)
    stuck = replace(said, notes={**said.notes, "text": ["walking " * 12] * len(facts)})
    reading = NgramEntropy(max_new_tokens=16)
    assert reading.look(llama, facts, said).values.min() > 2 > 0 == reading.look(llama, facts, stuck).values.max()


def test_gibberish_is_what_the_base_would_not_say() -> None:
    base, facts = golden_model("llama_base"), questions("forget")
    said = Generations(max_new_tokens=16).look(golden_model("llama_unlearned"), facts)
    fluent = Gibberish(max_new_tokens=16).look(base, facts, said)
    mixed = [" ".join(reversed(text.split())) for text in said.notes["text"]]
    noise = Gibberish(max_new_tokens=16).look(base, facts, replace(said, notes={**said.notes, "text": mixed}))
    assert (noise.values > fluent.values + 1).all()
    assert fluent.notes["donor"] == "llama_unlearned" and fluent.notes["empty"] == 0


def test_the_bases_own_words_have_its_own_loss() -> None:
    base, facts = golden_model("llama_base"), questions("forget").take([1], "one")
    said = Generations(max_new_tokens=16).look(base, facts)
    found = Gibberish(max_new_tokens=16).look(base, facts, said).values[0]
    row = [*base.tokenizer(facts.facts[0].prompt)["input_ids"]]
    text = base.tokenizer(said.notes["text"][0], add_special_tokens=False)["input_ids"]
    logits = base.run(pad([row + text])).logits[0].log_softmax(-1)
    losses = [-float(logits[len(row) + i - 1, token]) for i, token in enumerate(text)]
    assert found == pytest.approx(np.mean(losses), rel=1e-4)


def test_silence_is_missing_not_zero() -> None:
    base, facts = golden_model("llama_base"), questions("forget").take([0, 1], "two")
    said = Generations(max_new_tokens=16).look(base, facts)
    half = replace(said, notes={**said.notes, "text": ["", said.notes["text"][1]]})
    found = Gibberish(max_new_tokens=16).look(base, facts, half)
    assert math.isnan(found.values[0]) and np.isfinite(found.values[1]) and found.notes["empty"] == 1
    with pytest.raises(BadInput, match="says nothing"):
        Gibberish().look(base, facts, replace(said, notes={**said.notes, "text": ["", ""]}))
    with pytest.raises(BadInput, match="Take it with Generations"):
        Gibberish().look(base, questions("retain"), said)


# ---- KL


def test_a_model_is_no_way_from_itself_and_some_way_from_another(tmp_path) -> None:
    base, facts = golden_model("llama_base"), questions("forget")
    NextTokens(likeliest=20).look(base, facts).save(tmp_path / "base")
    stored = Trace.load(tmp_path / "base")
    own = KlToBase(likeliest=20).look(base, facts, stored)
    other = KlToBase(likeliest=20).look(golden_model("llama_unlearned"), facts, stored)
    assert own.values == pytest.approx(0, abs=1e-6)
    assert other.values.min() > 0.01
    assert 0.9 < other.notes["told_apart"] < 1


def test_with_the_whole_vocabulary_it_is_the_divergence() -> None:
    base, other, facts = golden_model("llama_base"), golden_model("llama_unlearned"), questions("retain")
    whole = KlToBase(likeliest=10_000)
    found = whole.look(other, facts, whole.donor_reading().look(base, facts)).values
    merged = KlToBase(likeliest=5).look(other, facts, NextTokens(likeliest=5).look(base, facts)).values
    by_hand = []
    for e in base.encode(facts.facts):
        p, q = (m.run(pad([e.ids])).logits[0].double().log_softmax(-1)[e.answer_start - 1 : -1] for m in (base, other))
        by_hand.append(float((p.exp() * (p - q)).sum(-1).mean()))
    assert found == pytest.approx(by_hand, rel=1e-4)
    assert (merged <= found + 1e-9).all() and (merged < found).any()


def test_a_guard_is_far_from_the_base(model: HookedModel, concept: Concept) -> None:
    stored = NextTokens(likeliest=8).look(model, concept.near)
    with abstaining(model).on(model):
        assert KlToBase(likeliest=8).look(model, concept.near, stored).values.min() > 1


def test_distributions_on_other_facts_are_refused() -> None:
    base = golden_model("llama_base")
    stored = NextTokens().look(base, questions("forget"))
    with pytest.raises(BadInput, match="needs the base's next_tokens"):
        KlToBase().look(base, questions("retain"), stored)
    with pytest.raises(BadInput, match="needs the base's next_tokens"):
        KlToBase().look(base, questions("forget"), replace(stored, notes={**stored.notes, "targets": [1]}))


# ---- all


def test_published_probability_needs_token_means(model: HookedModel, concept: Concept) -> None:
    with pytest.raises(BadInput, match="normalise='token'"):
        AnswerProbability(published=True).look(model, concept.forget)


@pytest.mark.parametrize("name", sorted(set(BEHAVIOUR) - {"perplexity", "gibberish", "kl_to_base"}))
def test_an_empty_set_is_refused(name: str, model: HookedModel) -> None:
    with pytest.raises(BadInput, match="empty"):
        BEHAVIOUR.load(name)().look(model, FactSet(name="none"))


@pytest.mark.parametrize("name", sorted(set(BEHAVIOUR) - {"perplexity", "gibberish", "kl_to_base", "next_tokens"}))
def test_the_same_model_reads_the_same_twice_and_from_disk(name: str, tmp_path) -> None:
    llama, facts = golden_model("llama_unlearned"), questions("retain").take([0, 1, 2], "three")
    options = {"max_new_tokens": 5} if "max_new_tokens" in BEHAVIOUR.load(name).model_fields else {}
    options |= {"shots": 0} if name == "knowmem" else {}
    first, second = (BEHAVIOUR.load(name)(**options).look(llama, facts) for _ in range(2))
    assert np.array_equal(first.values, second.values, equal_nan=True)
    first.save(tmp_path / "trace")
    assert dict(Trace.load(tmp_path / "trace").notes) == dict(first.notes)
    assert first.notes["options"] == BEHAVIOUR.load(name)(**options).spec()
