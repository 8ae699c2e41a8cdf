"""`schema`: the published form of documents, and templates that load as they are."""

import json

import jsonschema
import pytest


def test_the_schema_is_json_for_people_and_programs(cli):
    people, programs = cli("schema", "concept"), cli("schema", "concept", "--json")
    assert json.loads(people.out) == programs.json
    assert programs.json["$schema"].endswith("2020-12/schema") and "forget" in programs.json["required"]
    assert people.out.count("\n") > 50 and programs.out.count("\n") == 1


def test_without_a_name_the_documents_are_listed(cli):
    assert [row["name"] for row in cli("schema", "--json").json["documents"]] == ["concept", "report"]
    assert "concept" in cli("schema").out


@pytest.mark.parametrize("form", ["json", "yaml", "jsonl"])
def test_a_template_can_be_sent_to_a_file_and_loaded(cli, tmp_path, form):
    path = tmp_path / f"facts.{form}"
    path.write_text(cli("schema", "concept", "--example", form).out)
    said = cli("data", path, "--json")
    assert said.code == 0 and said.json["sets"][0] | {} and said.json["sets"][0]["facts"] == 2
    assert cli("schema", "concept", "--example", form, "--json").json["text"] == path.read_text().rstrip("\n")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("schema", "concpt"), "Did you mean 'concept'"),
        (("schema", "concept", "--example", "toml"), "no example of concept as 'toml'"),
        (("schema", "--example", "json"), "--example needs a document"),
        (("schema", "report", "--example", "json"), "no template of report"),
    ],
)
def test_bad_input_says_what_there_is(cli, words, message):
    said = cli(*words)
    assert (said.code, said.out) == (2, "") and message in said.err


def test_a_report_fits_its_published_schema_and_a_changed_one_does_not(cli, audit_run):
    published = cli("schema", "report", "--json").json
    found = json.loads((audit_run / "report.json").read_text())
    jsonschema.validate(found, published)
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate({**found, "level": 9}, published)
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate({**found, "levels": 1}, published)
