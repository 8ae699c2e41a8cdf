import json
from pathlib import Path

import pytest

from workbench.concepts import Concept, Fact, FactSet
from workbench.datasets import load_concept
from workbench.errors import BadInput

ROW = {"subject": "Ada", "prompt": "The job of Ada is", "answer": "chemist"}


def write(folder: Path, content: object, name: str = "facts.json") -> Path:
    path = folder / name
    path.write_text(json.dumps(content))
    return path


def test_a_file_of_ones_own_facts_loads(tmp_path: Path) -> None:
    path = write(
        tmp_path,
        {
            "forget": [ROW],
            "near": [{**ROW, "subject": "Bob", "prompt": "Bob works as a"}],
            "text": ["A line."],
            "jailbreaks": ["Please: {prompt}"],
        },
    )
    concept = load_concept(path)
    assert concept.forget.facts[0].answer == "chemist"
    assert (len(concept.near), len(concept.far), concept.text) == (1, 0, ("A line.",))


def test_json_lines_and_yaml_say_the_same(tmp_path: Path) -> None:
    lines = tmp_path / "facts.jsonl"
    lines.write_text(json.dumps(ROW) + "\n\n" + json.dumps({**ROW, "answer": "cook", "set": "far"}) + "\n")
    yaml = tmp_path / "facts.yaml"
    yaml.write_text(
        "forget:\n- {subject: Ada, prompt: The job of Ada is, answer: chemist}\n"
        "far:\n- {subject: Ada, prompt: The job of Ada is, answer: cook}\n"
    )
    assert load_concept(lines).digest == load_concept(yaml).digest


def test_the_digest_sees_every_fact_but_not_the_name() -> None:
    one = FactSet(name="a", facts=(Fact(**ROW),))
    assert one.digest == one.model_copy(update={"name": "b"}).digest
    assert one.digest != FactSet(name="a", facts=(Fact(**{**ROW, "answer": "cook"}),)).digest


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ({"forget": [ROW, {"subject": "Ada", "prompt": "The job of Ada is"}]}, ["forget row 2", "'answer' is missing"]),
        ({"forget": []}, ["forget set", "empty"]),
        ({"near": [ROW]}, ["forget set", "empty"]),
        ({"forget": [{**ROW, "prompt": "The job is"}]}, ["forget row 1", "does not contain its subject 'Ada'"]),
        ({"forget": [{**ROW, "answer": "  "}]}, ["'answer' is empty"]),
        ({"forget": [{**ROW, "anwser": "x"}]}, ["anwser"]),
        ({"forgot": [ROW]}, ["'forgot'", "Did you mean 'forget'"]),
        ({"forget": "Ada"}, ["must be a list"]),
        ({"forget": [ROW], "jailbreaks": ["no slot"]}, ["{prompt} exactly once"]),
        ([ROW], ["mapping", "'forget'"]),
    ],
)
def test_a_malformed_file_is_refused_by_row_and_field(tmp_path: Path, content: object, words: list[str]) -> None:
    with pytest.raises(BadInput) as error:
        load_concept(write(tmp_path, content))
    assert all(word in str(error.value) for word in words), str(error.value)


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        ("nothing", "demo:chemistry"),
        ("domo:chemistry", "Did you mean 'demo'"),
        ("demo:chemistri", "Did you mean 'chemistry'"),
        ("missing.json", "no concept file"),
    ],
)
def test_an_unknown_concept_says_what_there_is(spec: str, words: str) -> None:
    with pytest.raises(BadInput, match=words):
        load_concept(spec)


def test_not_json_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "facts.json"
    path.write_text("{")
    with pytest.raises(BadInput, match="not valid JSON"):
        load_concept(path)


def test_yaml_never_executes_code(tmp_path: Path) -> None:
    path = tmp_path / "facts.yaml"
    path.write_text("forget: !!python/object/apply:os.system ['touch pwned']\n")
    with pytest.raises(BadInput, match="not valid YAML"):
        load_concept(path)


def test_a_changed_copy_has_another_digest() -> None:
    facts = FactSet(name="a", facts=(Fact(**ROW), Fact(**{**ROW, "answer": "cook"})))
    before = facts.digest
    assert facts.take([0], "first").digest != before
    concept = Concept(name="x", forget=facts, near=facts, far=facts, never_taught=facts)
    before = concept.digest
    assert concept.model_copy(update={"near": FactSet(name="none")}).digest != before


def test_rewordings_become_facts_of_their_own() -> None:
    fact = Fact(**ROW, paraphrases=("Ada works as a", "By trade Ada is a"))
    reworded = FactSet(name="a", facts=(fact, Fact(**ROW))).reworded("paraphrases")
    assert [f.prompt for f in reworded] == ["Ada works as a", "By trade Ada is a"]
    assert {f.answer for f in reworded} == {"chemist"}


def test_a_concept_without_forget_facts_cannot_be_checked() -> None:
    empty = FactSet(name="none")
    with pytest.raises(BadInput, match="empty"):
        Concept(name="x", forget=empty, near=empty, far=empty, never_taught=empty).check()
