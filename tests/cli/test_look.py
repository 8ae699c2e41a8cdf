"""`look`: the reading, its picture and its table, on a model whose truth is known."""

import json

from workbench.trace import Trace


def test_look_finds_where_the_facts_were_written(cli, planted, planted_folder, concept_file, tmp_path):
    said = cli(
        "look",
        planted_folder,
        "--concept",
        concept_file,
        "--probe",
        "concept_vectors",
        "--set",
        "score=effect",
        "--out",
        tmp_path / "run",
        "--json",
    )
    assert said.code == 0
    true = {str(site) for site in planted.sites_of(planted.concept.forget.facts)}
    found = [entry["site"] for entry in said.json["entries"]]
    assert len(found) == 10 and len(true & set(found)) >= 8
    assert said.json["axis"] == "site"
    trace = Trace.load(tmp_path / "run" / "traces" / "checkpoint" / "concept_vectors.forget")
    assert [str(site) for site in trace.top("site", 10)] == found
    assert trace.units == said.json["units"]
    page = (tmp_path / "run" / "concept_vectors.html").read_text()
    assert "Plotly.newPlot" in page and 'src="http' not in page


def test_look_for_people_ends_with_the_paths(cli, planted_folder, concept_file):
    said = cli("look", planted_folder, "--concept", concept_file, "--probe", "accuracy", "--on", "never_taught")
    assert said.code == 0
    assert "Mean 0 share of facts over 8 of 8" in said.out
    last = said.out.rstrip().splitlines()[-1]
    assert last.startswith("Wrote runs/look-accuracy-") and last.endswith("accuracy.never_taught.safetensors")


def test_the_same_question_is_answered_from_disk(cli, planted_folder, concept_file, monkeypatch):
    question = ("look", planted_folder, "--concept", concept_file, "--probe", "best_of_n", "--json")
    first = cli(*question)

    def never(*_: object) -> None:
        raise AssertionError("a stored reading was taken again")

    monkeypatch.setattr("audits.behaviour.answers.BestOfN.look", never)
    assert cli(*question).json == first.json


def test_other_options_are_another_question(cli, planted_folder, concept_file):
    question = ("look", planted_folder, "--concept", concept_file, "--probe", "answer_probability", "--json")
    runs = [
        cli(*question, *more).json["run_id"]
        for more in ((), ("--set", "normalise=token"), ("--on", "near"), ("--limit", 2))
    ]
    assert len(set(runs)) == 4


def test_a_trial_says_that_it_is_one(cli, planted_folder, concept_file):
    said = cli("look", planted_folder, "--concept", concept_file, "--probe", "accuracy", "--limit", 3)
    assert "Only the first 3 facts were read" in said.out
    assert "over 3 of 3" in said.out


def test_plain_text_is_read_by_itself(cli, planted_folder, concept_file):
    said = cli("look", planted_folder, "--concept", concept_file, "--probe", "perplexity", "--json")
    assert said.json["on"] == "text" and said.json["axes"] == {"text": 4}
    wrong = cli("look", planted_folder, "--concept", concept_file, "--probe", "perplexity", "--on", "near")
    assert wrong.code == 2 and "perplexity cannot read 'near'. There are: text" in wrong.err


def test_trained_probes_get_other_subjects_to_learn_from(cli, planted_folder, concept_file, tmp_path):
    said = cli(
        "look",
        planted_folder,
        "--concept",
        concept_file,
        "--probe",
        "linear_probes",
        "--set",
        "seeds=1",
        "--out",
        tmp_path / "run",
        "--json",
    )
    assert [entry["layer"] for entry in said.json["entries"]] == ["embed", "L0", "L1", "L2"]
    notes = json.loads((tmp_path / "run" / "traces" / "checkpoint" / "linear_probes.forget.json").read_text())["notes"]
    assert notes["train"].endswith("probe_training")


def test_quiet_leaves_stderr_empty(cli, planted_folder, concept_file):
    assert cli("look", planted_folder, "--concept", concept_file, "--probe", "accuracy", "--quiet").err == ""


def test_control_characters_do_not_reach_the_terminal(cli, planted_folder, changed_concept):
    path = changed_concept(lambda c: c["text"].insert(0, "The house \x1b[31m of [bold]the man ."))
    said = cli("look", planted_folder, "--concept", path, "--probe", "perplexity")
    assert said.code == 0
    assert "\x1b" not in said.out and "[bold]the man" in said.out


def test_the_reading_may_be_named_first(cli, planted_folder, concept_file):
    first = cli("look", "answer_probability", planted_folder, "--concept", concept_file, "--json")
    option = cli("look", planted_folder, "--probe", "answer_probability", "--concept", concept_file, "--json")
    assert first.code == 0 and first.json == option.json


def test_one_reading_and_one_model_are_asked_for(cli, planted_folder, concept_file):
    def refused(*words):
        said = cli("look", *words, "--concept", concept_file)
        assert said.code == 2
        return said.err

    assert "What to look into" in refused(planted_folder)
    assert "Give one reading and one model" in refused("accuracy", planted_folder, "--probe", "accuracy")
    assert "Give one reading and one model" in refused("accuracy", planted_folder, planted_folder)
    assert "leave out --against" in refused("accuracy", planted_folder, "--against", planted_folder)
