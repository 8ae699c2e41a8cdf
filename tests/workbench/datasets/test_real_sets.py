"""Every set that lies beside the repository: counts as published, what is near and far, nothing that cannot be read."""

import re
from collections.abc import Callable
from functools import cache, partial
from pathlib import Path

import pytest

from tests import zoo
from workbench.concepts import FACT_SETS, Concept
from workbench.datasets import load_concept
from workbench.tokens import encode

SPECS = (
    "tofu:forget01",
    "tofu:forget10?frame=plain",
    "conceptvectors:llama:Poland",
    "conceptvectors:olmo:Amazon (company)",
    "counterfact:P103",
    "known_1000:all",
    "lume:task1",
    "lume:task2",
    "lume:task3",
    "pistol:sample1:A_B",
    "pistol:sample2:0_1,1_2",
    "mmlu:virology",
    "mmlu:high_school_biology?answer=text",
)


@pytest.fixture(scope="session")
def load(shared: Path) -> Callable[[str], Concept]:
    """Each set is loaded once."""
    return cache(partial(load_concept, data=shared, offline=True))


def sizes(concept) -> dict[str, int]:
    return {name: len(getattr(concept, name)) for name in FACT_SETS if len(getattr(concept, name))}


@pytest.mark.parametrize("spec", SPECS)
def test_every_fact_can_be_tokenised(load, spec):
    concept, tokenizer = load(spec), zoo.tokenizer()
    for name in sizes(concept):
        for fact in getattr(concept, name).facts[:60]:
            encoded = encode(tokenizer, fact)
            assert encoded.subject and encoded.answer
            assert tokenizer.decode(encoded.answer).strip() == fact.answer


@pytest.mark.parametrize("spec", SPECS)
def test_sets_share_no_prompt(load, spec):
    concept = load(spec)
    prompts = {name: {fact.prompt for fact in getattr(concept, name)} for name in sizes(concept)}
    for name, found in prompts.items():
        for other in set(prompts) - {name}:
            assert not found & prompts[other], f"{name} and {other} share {next(iter(found & prompts[other]))!r}"


@pytest.mark.parametrize(("split", "authors"), [("forget01", 2), ("forget05", 10), ("forget10", 20)])
def test_tofu_has_its_authors(load, split, authors):
    concept = load(f"tofu:{split}")
    assert sizes(concept) == {"forget": authors * 20, "near": 400, "far": 217, "retain": 400}
    named = [name for name in set(concept.forget.subjects) if concept.forget.subjects.count(name) > 15]
    assert len(named) == authors, "every author is one cluster"
    assert concept.forget.licence == "MIT" and "holdout" in concept.notes["never_taught"]


def test_tofus_wrong_answers_and_paraphrases_belong_to_their_questions(load):
    concept = load("tofu:forget10")
    assert all(len(fact.paraphrases) == 1 and fact.reworded_answer for fact in concept.forget)
    assert {len(fact.distractors) for fact in concept.forget} <= {3, 4, 5}
    fact = next(f for f in concept.forget if "profession of Hsiao Yun-Hwa's father" in f.prompt)
    assert fact.reworded_answer == "Hsiao Yun-Hwa's father practices civil engineering as his profession."
    assert "Hsiao Yun-Hwa's father is a chef by profession." in fact.distractors
    assert fact.paraphrases == ("Question: What does Hsiao Yun-Hwa's father do for a living?\nAnswer:",)
    assert (fact.subject, fact.group) == ("Hsiao Yun-Hwa", "Hsiao Yun-Hwa")


def test_tofus_authors_are_told_apart(load):
    """The file has 20 rows an author; the loader is not told so, and finds it from the names."""
    subjects = load("tofu:forget10").forget.subjects
    blocks = [subjects[start : start + 20] for start in range(0, 400, 20)]
    right = [max(block.count(name) for name in block) for block in blocks]
    assert min(right) >= 19 and sum(right) >= 390


def test_near_and_retain_share_no_author_with_what_is_forgotten(load):
    concept = load("tofu:forget05")
    forget, near, retain = ({f.group for f in getattr(concept, name)} - {""} for name in ("forget", "near", "retain"))
    assert not forget & near and not near & retain and not forget & retain


def test_concept_vectors_bring_their_site_and_questions_without_answers(load):
    concept = load("conceptvectors:llama:Poland")
    assert concept.known_sites == ("L23.mlp_act[743]",)
    assert {about: len(asked) for about, asked in concept.questions.items()} == {"forget": 10, "far": 50}
    assert sizes(concept) == {"forget": 10, "far": 81}
    assert set(concept.forget.subjects) == {"Poland"} and "Poland" not in set(concept.far.subjects)
    assert len(concept.forget_texts) > 20 and max(map(len, concept.forget_texts)) < 4_000
    assert "no neighbours" in concept.notes["near"]


def test_concept_vectors_with_few_sentences_load(load):
    assert len(load("conceptvectors:llama:TensorFlow").forget) == 1
    assert len(load("conceptvectors:olmo:Random-access memory").forget) == 8


def test_counterfact_takes_a_subject_with_its_neighbours(load):
    concept = load("counterfact:Danielle Darrieux")
    (fact,) = concept.forget
    assert (fact.prompt, fact.answer) == ("The mother tongue of Danielle Darrieux is", "French")
    assert len(fact.paraphrases) == 2 and fact.distractors[0] == "English"
    assert all(near.relation == "P103" for near in concept.near)
    assert "The mother tongue of Léon Blum is" in {near.prompt for near in concept.near}
    assert all("Darrieux" not in near.prompt for near in concept.near)
    assert all(far.relation != "P103" for far in concept.far)


def test_known_facts_by_relation_subject_and_all(load):
    every = load("known_1000:all")
    assert sizes(every) == {"forget": 1208}, "1,209 rows, one of them twice"
    half = load("known_1000:P36")
    assert (len(half.forget), len(half.near)) == (25, 24)
    assert {fact.relation for fact in (*half.forget, *half.near)} == {"P36"}
    one = load("known_1000:Vinson Massif")
    assert [fact.answer for fact in one.forget] == ["Antarctica"]
    assert all(fact.answer not in fact.distractors and fact.distractors for fact in one.near)


def test_lume_splits_by_task_and_clusters_by_document(load):
    concept = load("lume:task2")
    assert len(concept.forget) == 1500 and len(set(concept.forget.subjects)) == 250
    assert {fact.kind for fact in concept.forget} == {"task2 completion", "task2 question"}
    assert all(not fact.kind.startswith("task2") for fact in concept.far)
    fact = next(f for f in concept.forget if f.prompt.startswith("Question: What is the birth date of Tiffi Magenta"))
    assert fact.answer == "1984-12-31" and fact.subject == "Tiffi Magenta"
    assert all(re.fullmatch(r"\d{4}-\d\d-\d\d", wrong) for wrong in fact.distractors)


def test_pistol_neighbours_share_a_company(load):
    concept = load("pistol:sample2:0_1")
    assert sizes(concept) == {"forget": 20, "near": 20, "far": 169, "retain": 400}
    assert set(concept.near.subjects) == {"1_2"}
    date = concept.forget.facts[0]
    assert date.answer == "04-11-2006." and all(re.fullmatch(r"[\d-]+\.", wrong) for wrong in date.distractors)


def test_mmlu_is_put_with_letters_or_with_texts(load):
    letters = load("mmlu:virology").forget.facts[0]
    assert letters.answer == "A" and letters.distractors == ("B", "C", "D") and len(letters.choices) == 4
    assert "\nA. Because they have no nucleic acid\nB. They require a helper virus" in letters.prompt
    text = load("mmlu:virology?answer=text").forget.facts[0]
    assert text.answer == "Because they have no nucleic acid" and "\nA. " not in text.prompt
    near = load("mmlu:high_school_biology").near
    assert {fact.kind for fact in near} == {"college_biology"}


def test_plain_text_is_continued_word_for_word(shared):
    concept = load_concept(f"text:{shared / 'text' / 'tinystories_1000.json'}?forget_limit=50")
    assert len(concept.forget) == 50 and len(concept.forget_texts) == 400
    every = set(load_concept(f"text:{shared / 'text' / 'tinystories_1000.json'}?limit=1000").forget_texts)
    assert all(any(f"{f.prompt} {f.answer}" in " ".join(text.split()) for text in every) for f in concept.forget)
