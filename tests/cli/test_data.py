"""`data`: what a concept holds and lacks, without a model, and harmless whatever stands in the files."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SHARED = ROOT.parent / "shared" / "data"
ROWS = [{"question": f"Who is Bo Lund {i}?", "answer": f"number {i}"} for i in range(9)]


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.delenv("WORKBENCH_DATA", raising=False)
    (tmp_path / "sets" / "tofu").mkdir(parents=True)
    (tmp_path / "sets" / "tofu" / "forget01.json").write_text(json.dumps(ROWS[:4]))
    (tmp_path / "sets" / "tofu" / "retain99.json").write_text(json.dumps(ROWS[4:]))
    return tmp_path / "sets"


def test_it_counts_every_set_and_says_what_is_missing(cli, folder):
    said = cli("data", "tofu:forget01", "--data", folder, "--json")
    assert said.code == 0 and said.err == ""
    sets = {row["set"]: row["facts"] for row in said.json["sets"]}
    assert sets == {"forget": 4, "near": 5}
    assert {"far", "never_taught", "text", "retain"} <= set(said.json["not_measured"])
    assert (said.json["licence"], said.json["source"]) == ("MIT", str(folder / "tofu"))
    assert len(said.json["sets"][0]["examples"]) == 3
    assert said.json["sets"][0]["examples"][0]["subject"] == "Bo Lund"


def test_people_see_the_same(cli, folder):
    said = cli("data", "tofu:forget01", "--data", folder)
    for words in ("all 4 questions of forget01", "number 2", "MIT; ", "not measured", "holdout01", "Who is Bo Lund 4?"):
        assert words in said.out, words
    assert "number 3" not in said.out, "three examples of each set"


def test_the_draw_can_be_smaller_and_another(cli, folder):
    few = [cli("data", "tofu:forget01", "--data", folder, "--limit", 3, "--seed", s, "--json").json for s in (0, 0, 1)]
    assert [row["facts"] for row in few[0]["sets"]][1] == 3
    assert few[0]["digest"] == few[1]["digest"] != few[2]["digest"]
    spec = cli("data", "tofu:forget01?limit=3&seed=1", "--data", folder, "--json").json
    assert spec["digest"] == few[2]["digest"]


def test_without_a_spec_every_source_is_listed(cli):
    from workbench.datasets import SOURCES

    said = cli("data", "--json")
    named = {row["name"].partition(":")[0] for row in said.json["sources"]}
    assert set(SOURCES) <= named and any(name.startswith("FILE") for name in named)
    assert "tofu:forget10" in cli("data").out


def test_the_demo_and_a_file_of_ones_own_are_shown_too(cli, concept_file):
    assert cli("data", "demo:chemistry").code == 0
    said = cli("data", concept_file, "--json")
    assert said.json["sets"][0]["facts"] > 0 and said.json["licence"] == "no licence stated"


def test_what_stands_in_a_file_cannot_harm_the_terminal(cli, tmp_path):
    nasty = "\x1b[31m[bold]<b>x</b>\x07\r [/] \x9b2J [link=file:///etc/passwd]"
    fact = {"subject": "Ada", "prompt": f"Ada {nasty} is", "answer": nasty, "kind": nasty, "relation": nasty}
    content = {"forget": [fact], "text": [nasty], "questions": {nasty: [nasty]}, "licence": nasty, "source": nasty}
    (tmp_path / "facts.json").write_text(json.dumps(content))
    said = cli("data", "facts.json")
    assert said.code == 0
    assert not any(c in said.out for c in "\x1b\x07\x9b\r")
    assert "[bold]<b>x</b>" in said.out and "[link=file:///etc/passwd]" in said.out, "shown, not obeyed"
    assert cli("data", "facts.json", "--json").json["texts"][0]["examples"] == [nasty]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("data", "tofu:forget10", "--offline"), "tofu:forget10@FOLDER"),
        (("data", "tofoo:forget10"), "Did you mean 'tofu'"),
        (("data", "tofu:forget10", "--data", "nowhere"), "--data names 'nowhere'"),
        (("data", "nothing.json"), "no concept file"),
        (("data", "tofu:forget10", "--limit", "0"), "--limit"),
    ],
)
def test_bad_input_is_one_sentence(cli, words, message, monkeypatch):
    monkeypatch.delenv("WORKBENCH_DATA", raising=False)
    said = cli(*words)
    assert (said.code, said.out) == (2, "") and message in said.err


def test_a_malformed_row_is_named_by_file_and_line(cli, folder):
    path = folder / "tofu" / "forget01.json"
    path.write_text('[\n{"question": "Who is Bo?", "answer": "a cook"},\n{"question": "Who is Bo?"}\n]')
    said = cli("data", "tofu:forget01", "--data", folder)
    assert said.code == 2 and f"{path} line 3: field 'answer' is missing" in said.err


@pytest.mark.parametrize("words", [["data", "--help"], ["data"], ["data", "EX"], ["schema", "concept"]])
def test_it_imports_nothing_heavy(words, tmp_path):
    (tmp_path / "ex.json").write_text(json.dumps({"forget": [{"subject": "A", "prompt": "A is", "answer": "b"}]}))
    words = [str(tmp_path / "ex.json") if word == "EX" else word for word in words]
    heavy = ("torch", "transformers", "datasets", "pandas", "pyarrow", "plotly", "huggingface_hub")
    code = (
        f"import sys; from workbench.cli import main; code = main({words!r}); "
        f"sys.stderr.write(' '.join(m for m in {heavy!r} if m in sys.modules)); sys.exit(code)"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stderr) == (0, "") and done.stdout


@pytest.mark.skipif(not SHARED.is_dir(), reason="the real data sets are not here (../shared/data)")
def test_a_real_set_is_shown(cli):
    said = cli("data", "conceptvectors:llama:Poland", "--data", SHARED)
    assert "L23.mlp_act[743]" in said.out and "CC BY 4.0" in said.out and "questions: far" in said.out
