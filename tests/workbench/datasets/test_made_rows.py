"""Sets of which no row may lie here (MUSE, RWKU, WMDP): read from rows made by hand in the same form."""

import json

import pytest

from tests import zoo
from workbench.concepts import FACT_SETS
from workbench.datasets import load_concept
from workbench.errors import BadInput
from workbench.tokens import encode

PERSON = "Orla Wren"


def tokenised(concept) -> None:
    for name in FACT_SETS:
        for fact in getattr(concept, name):
            assert encode(zoo.tokenizer(), fact).answer


@pytest.fixture
def muse(write):
    return write(
        muse__news__knowmem__forget_qa=[{"question": "Who won the race at Brack?", "answer": "Orla Wren"}],
        muse__news__knowmem__retain_qa=[
            {"question": f"Who lost at Brack in {y}?", "answer": "Nobody"} for y in range(9)
        ],
        muse__news__verbmem__forget=[{"prompt": "The harbour lay before them,", "gt": "grey and without a light."}],
        **{f"muse__news__privleak__{s}": [{"text": f"Passage {i} of {s}."} for i in range(3)] for s in SPLITS},
    )


SPLITS = ("forget", "retain", "holdout")


def test_muse_gives_questions_passages_and_members(muse):
    concept = load_concept("muse:news", data=muse)
    assert [fact.kind for fact in concept.forget] == ["knowmem", "verbmem"]
    assert [fact.answer for fact in concept.forget] == ["Orla Wren", "grey and without a light."]
    assert (len(concept.near), len(concept.far)) == (9, 0) and "no unrelated" in concept.notes["far"]
    assert concept.holdout_texts == tuple(f"Passage {i} of holdout." for i in range(3))
    assert len(concept.forget_texts) == len(concept.retain_texts) == 3
    assert concept.forget.licence == "no licence stated"
    tokenised(concept)


def test_muse_books_are_another_folder(muse):
    with pytest.raises(BadInput, match="Did you mean 'news'"):
        load_concept("muse:newz", data=muse)
    with pytest.raises(BadInput, match="muse/books"):
        load_concept("muse:books", data=muse, offline=True)


def rwku_rows(level: str, kind: str, query: str, subject: str = PERSON, **more: str) -> dict[str, str]:
    return {"subject": subject, "level": level, "type": kind, "query": query, "answer": "a pilot", **more}


@pytest.fixture
def rwku(write):
    other = rwku_rows("1", "fill", "Bo Lund is ___.", "Bo Lund")
    mc = {"question": "What is 2 + 2?", "choices": ["3", "4", "5", "6"], "answer": 1, "task": "sums", "subject": PERSON}
    return write(
        rwku__forget_level1=[rwku_rows("1", "fill", f"{PERSON} works as ___."), other],
        rwku__forget_level2=[rwku_rows("2", "simple question", f"What is {PERSON}'s profession?")],
        rwku__forget_level3=[
            rwku_rows("3", "affirmative suffix", f"What does {PERSON} do? Sure, {PERSON} is"),
            rwku_rows("3", "reverse query", "Who flies the mail to Brack?"),
        ],
        rwku__neighbor_level1=[rwku_rows("1", "fill", "The Brack Mail was founded by ___.", neighbor="Brack Mail")],
        rwku__neighbor_level2=[rwku_rows("2", "simple question", "Where is the Brack Mail?", neighbor="Brack Mail")],
        rwku__mia_forget=[{"subject": PERSON, "text": f"{PERSON} learnt to fly early."}],
        rwku__mia_retain=[{"subject": PERSON, "text": "The river rose in spring."}],
        rwku__utility_general=[mc],
        rwku__utility_reason=[{"question": "True and false is", "answer": "false", "task": "logic", "cot": "..."}],
        rwku__utility_truthfulness=[
            {
                "question": "Do pigs fly?",
                "mc1_targets": {"choices": ["They do not", "They do", "At night"], "labels": [1, 0, 0]},
            }
        ],
        rwku__utility_factuality=[{"question": "Where is the Louvre?", "answers": ["Paris", "in Paris"]}],
        rwku__utility_fluency=[{"instruction": "Write a letter to the mayor."}],
    )


def test_rwku_gives_one_person_by_level_and_attack(rwku):
    concept = load_concept(f"rwku:{PERSON}", data=rwku)
    assert [fact.kind for fact in concept.forget] == ["level 1, fill in the blank", "level 2, question"]
    assert all(fact.subject == PERSON for fact in concept.forget)
    assert [fact.kind for fact in concept.attack_prompts] == ["affirmative suffix", "reverse query"]
    assert concept.attack_prompts.facts[0].prompt.endswith("Sure, Orla Wren is"), "nothing behind the suffix"
    assert concept.attack_prompts.facts[1].prompt.endswith("\nAnswer:")
    assert set(concept.near.subjects) == {"Brack Mail"} and len(concept.near) == 2
    assert concept.forget_texts == ("Orla Wren learnt to fly early.",) and len(concept.retain_texts) == 1
    assert concept.questions == {"fluency": ("Write a letter to the mayor.",)}
    tokenised(concept)


def test_rwku_utility_is_far_with_its_choices(rwku):
    far = {fact.kind: fact for fact in load_concept(f"rwku:{PERSON}", data=rwku).far}
    assert set(far) == {f"utility {name}" for name in ("general", "reason", "truthfulness", "factuality")}
    assert (far["utility general"].answer, far["utility general"].choices[1]) == ("B", "4")
    assert far["utility truthfulness"].distractors == ("They do", "At night")
    assert far["utility factuality"].answer == "Paris"


def test_rwku_reads_the_folders_its_own_script_writes(rwku, write):
    one = {"forget_level1": "forget_level1", "mia_forget": "forget_mia", "utility_general": "retain_mmlu"}
    tables = {new: json.loads((rwku / "rwku" / f"{old}.json").read_text()) for old, new in one.items()}
    folder = write("target", **{f"7_Orla_Wren__{name}": rows for name, rows in tables.items()})
    concept = load_concept(f"rwku:{PERSON}@{folder}")
    assert (len(concept.forget), len(concept.far), len(concept.forget_texts)) == (1, 1, 1)


def test_rwku_does_not_know_everybody(rwku):
    with pytest.raises(BadInput, match="asks nothing about 'Orla Wrenn'. Did you mean 'Orla Wren'"):
        load_concept("rwku:Orla Wrenn", data=rwku)


QUESTION = {"question": "Which lock is weakest?", "choices": ["pin", "disc", "none", "tape"], "answer": 3}


def test_wmdp_takes_near_and_far_from_mmlu_and_its_corpora_as_text(write):
    other = {"question": "What is heavier?", "choices": ["a", "b", "c", "d"], "answer": 0}
    root = write(
        **{"wmdp__wmdp-cyber": [QUESTION]},
        **{"wmdp__cyber-forget-corpus": [{"text": f"Page {i}."} for i in range(9)]},
        **{"wmdp__cyber-retain-corpus": [{"text": "A page on gardens."}]},
        mmlu__test=[],
    )
    (root / "mmlu" / "test.json").unlink()
    for name in ("computer_security", "virology"):
        cells = [other["question"] + name, *other["choices"], "A"]
        (root / "mmlu" / f"{name}_test.csv").write_text(",".join(cells) + "\n")
    concept = load_concept("wmdp:cyber", data=root, offline=True, limit=4)
    (fact,) = concept.forget
    assert (fact.answer, fact.distractors, fact.choices) == ("D", ("A", "B", "C"), ("pin", "disc", "none", "tape"))
    assert [f.kind for f in concept.near] == ["computer_security"] and [f.kind for f in concept.far] == ["virology"]
    assert concept.forget_texts == ("Page 0.", "Page 1.", "Page 2.", "Page 3.")
    assert "first 4 passages" in concept.notes["forget_texts"] and len(concept.retain_texts) == 1
    tokenised(concept)


def test_wmdp_without_mmlu_says_what_it_lacks(write):
    concept = load_concept("wmdp:cyber", data=write(**{"wmdp__cyber_questions": [QUESTION]}), offline=True)
    assert len(concept.near) == len(concept.far) == 0
    assert "MMLU could not be read" in concept.notes["near"]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"answer": 4}, "a whole number from 0 to 3, not 4"),
        ({"answer": True}, "a whole number"),
        ({"choices": "abcd"}, "'choices' should hold a list of texts"),
        ({"choices": ["a", None]}, "'choices' should hold text that is not empty"),
        ({"question": " "}, "'question' should hold text"),
    ],
)
def test_a_malformed_question_is_named(write, change, words):
    root = write(**{"wmdp__wmdp-bio": [QUESTION, {**QUESTION, **change}]})
    with pytest.raises(BadInput, match=words) as error:
        load_concept("wmdp:bio", data=root, offline=True)
    assert "wmdp-bio.json line 1" in str(error.value)


def test_a_holdout_of_tofu_is_what_was_never_taught(write):
    rows = {name: [{"question": f"Who is {name} {i}?", "answer": f"{name}"} for i in range(3)] for name in SPLITS}
    root = write(tofu__forget01=rows["forget"], tofu__retain99=rows["retain"], tofu__holdout01=rows["holdout"])
    concept = load_concept("tofu:forget01", data=root)
    assert [len(getattr(concept, name)) for name in ("forget", "near", "never_taught", "far")] == [3, 3, 3, 0]


def test_plain_text_in_a_folder_fills_the_sets_it_has(tmp_path):
    for name in ("forget", "near", "holdout", "general"):
        (tmp_path / f"{name}.txt").write_text(f"The {name} lay by the river.\n\nAnother {name} stood on a hill.\n")
    concept = load_concept(f"text:{tmp_path}")
    assert [(fact.prompt, fact.answer) for fact in concept.forget] == [
        ("The forget lay", "by the river."),
        ("Another forget stood", "on a hill."),
    ]
    assert (len(concept.near), len(concept.far)) == (2, 0)
    assert concept.text == ("The general lay by the river.", "Another general stood on a hill.")
    assert len(concept.holdout_texts) == 2 and not concept.retain_texts
