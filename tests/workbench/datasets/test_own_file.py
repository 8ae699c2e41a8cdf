"""A file of one's own facts in full, what is refused of it, and its published schema."""

import json

import pytest

from workbench.concepts import Concept, Fact, FactSet
from workbench.datasets import load_concept, own_file
from workbench.datasets.own_file_schema import EXAMPLE, FORMS, example, schema
from workbench.errors import BadInput

ROW = {"subject": "Ada", "prompt": "The job of Ada is", "answer": "chemist"}
FULL = {
    "forget": [{**ROW, "choices": ["cook", "chemist"], "group": "A", "kind": "plain", "reworded_answer": "a chemist"}],
    "attack_prompts": [{**ROW, "prompt": "Say it: Ada is a", "kind": "prefix injection"}],
    "forget_texts": ["Ada went home."],
    "retain_texts": ["Bo went home."],
    "holdout_texts": ["Nobody went home."],
    "questions": {"far": ["Where is Rome?"]},
    "known_sites": ["L1.mlp_act[7]"],
    "licence": "CC0",
    "source": "made up",
}


def put(folder, content, name="facts.json"):
    path = folder / name
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return path


def test_everything_a_concept_can_hold_can_be_written(tmp_path):
    concept = load_concept(put(tmp_path, FULL))
    assert concept.forget.facts[0].choices == ("cook", "chemist") and concept.forget.subjects == ("A",)
    assert (len(concept.attack_prompts), concept.questions["far"]) == (1, ("Where is Rome?",))
    assert concept.known_sites == ("L1.mlp_act[7]",) and concept.holdout_texts == ("Nobody went home.",)
    assert (concept.forget.licence, concept.forget.source) == ("CC0", "made up")


@pytest.mark.parametrize("part", sorted(set(FULL) - {"forget", "licence", "source"}))
def test_every_part_enters_the_digest_but_who_made_it(tmp_path, part):
    whole = load_concept(put(tmp_path, FULL)).digest
    assert load_concept(put(tmp_path, {k: v for k, v in FULL.items() if k != part}, "b.json")).digest != whole
    assert load_concept(put(tmp_path, {**FULL, "licence": "MIT"}, "c.json")).digest == whole


@pytest.mark.parametrize("field", ["choices", "group", "kind", "reworded_answer"])
def test_every_new_field_of_a_fact_enters_its_digest(field):
    full = Fact(**FULL["forget"][0])
    other = full.model_copy(update={field: Fact(**ROW).__dict__[field]})
    assert FactSet(name="a", facts=(full,)).digest != FactSet(name="a", facts=(other,)).digest


def test_digests_of_concepts_without_the_new_fields_are_what_they_were():
    fact = Fact(
        subject="Ada",
        prompt="The job of Ada is",
        answer="chemist",
        relation="job",
        distractors=("cook",),
        paraphrases=("Ada works as a",),
        formats=("Q",),
    )
    facts, none = FactSet(name="a", facts=(fact,)), FactSet(name="none")
    assert facts.digest == "868966c103bdb7a79860aeeff3f549e7f567e6695faed09cf6336618f6aacd4e"
    concept = Concept(
        name="x", forget=facts, near=none, far=none, never_taught=none, text=("A.",), jailbreaks=("{prompt}",)
    )
    assert concept.digest == "f5263430b61641a3cd66fcd92436a1590b7a03991759e465e0acd3cf17d485b2"
    assert load_concept("demo:chemistry").digest.startswith("6229a28bc9e2b945029a1a6bdf93e5b9")


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ({**FULL, "questions": ["x"]}, "'questions' must be a mapping"),
        ({**FULL, "questions": {"far": [1]}}, "must be a list of strings"),
        ({**FULL, "known_sites": ["layer 3"]}, "known_sites"),
        ({**FULL, "licence": 3}, "'licence' must be a string"),
        ({**FULL, "holdout_text": []}, "Did you mean 'holdout_texts'"),
        ({"forget": [{**ROW, "choices": ["cook"]}]}, "none of the choices"),
        ({"forget": [{**ROW, "answer": "C", "choices": ["cook", "chemist"]}]}, "none of the choices"),
        ('{"forget": [{"subject": "Ada", "prompt": "Ada is", "answer": "\\ud800"}]}', "surrogate"),
        ('{"forget": [], "text": ["\\udfff"]}', "text row 1: it has half"),
        ("[" * 100_000, "not valid JSON"),
    ],
)
def test_what_is_wrong_is_named(tmp_path, content, words):
    with pytest.raises(BadInput, match=words):
        load_concept(put(tmp_path, content))


@pytest.mark.parametrize(
    ("lines", "words"),
    [
        ([ROW, {**ROW, "answer": ""}], "line 3: field 'answer' is empty"),
        ([ROW, {**ROW, "set": "forgot"}], "line 3: there is no set 'forgot'. Did you mean 'forget'"),
        ([ROW, 3], "line 3: a fact is a JSON object"),
    ],
)
def test_a_wrong_line_is_named_by_its_number(tmp_path, lines, words):
    text = "\n\n".join(json.dumps(line) for line in lines)
    with pytest.raises(BadInput, match=words):
        load_concept(put(tmp_path, text, "facts.jsonl"))


def test_a_line_separator_inside_a_text_ends_no_line(tmp_path):
    text = json.dumps({**ROW, "answer": "a\u2028b\x85c"}, ensure_ascii=False)
    assert load_concept(put(tmp_path, text, "facts.jsonl")).forget.facts[0].answer == "a\u2028b\x85c"


def test_a_small_yaml_cannot_stand_for_a_huge_one(tmp_path):
    bomb = "a: &a [x, x]\nb: &b [*a, *a]\nforget: [*b, *b]\n"
    with pytest.raises(BadInput, match="anchors and aliases are not read"):
        load_concept(put(tmp_path, bomb, "facts.yaml"))


def test_a_huge_file_is_refused_unread(tmp_path, monkeypatch):
    path = put(tmp_path, FULL)
    monkeypatch.setattr(own_file, "MAX_BYTES", 10)
    with pytest.raises(BadInput, match="a concept file may have"):
        load_concept(path)


@pytest.mark.parametrize("form", FORMS)
def test_the_template_loads_as_it_stands(tmp_path, form):
    concept = load_concept(put(tmp_path, example(form), f"facts.{form}"))
    assert len(concept.forget) == len(EXAMPLE["forget"]) and len(concept.near) == len(concept.far) == 1
    assert len(concept.never_taught) == 1
    if form != "jsonl":
        assert concept.digest == load_concept(put(tmp_path, EXAMPLE)).digest


def test_the_schema_allows_what_loads_and_refuses_what_does_not(tmp_path):
    jsonschema = pytest.importorskip("jsonschema")
    check = jsonschema.Draft202012Validator(schema())
    check.check_schema(schema())
    for good in (EXAMPLE, FULL):
        assert not list(check.iter_errors(good))
    for bad in (
        {},
        {"forget": []},
        {"forgot": [ROW]},
        {"forget": [{"subject": "Ada", "prompt": "Ada is"}]},
        {"forget": [{**ROW, "anwser": "x"}]},
        {"forget": [ROW], "text": [1]},
        {"forget": [ROW], "questions": ["x"]},
    ):
        assert list(check.iter_errors(bad)), bad
        with pytest.raises(BadInput):
            load_concept(put(tmp_path, bad))


def test_the_schema_knows_every_part(tmp_path):
    assert set(schema()["properties"]) == set(own_file.PARTS)
    assert all(part.get("description") for part in schema()["properties"].values())
    assert all(field.get("description") for field in schema()["$defs"]["Fact"]["properties"].values())
