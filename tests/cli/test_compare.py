"""`compare` as a user calls it: sentence, table, files, exit codes, and one answer to one question."""

import pytest
from safetensors.torch import load_file


def test_compare_names_the_changed_columns(cli, planted, planted_folder, ablated_folder, tmp_path):
    said = cli("compare", planted_folder, ablated_folder, "--out", tmp_path / "run", "--json")
    assert said.code == 0
    summary, sites = said.json["summary"], planted.sites_of(planted.concept.forget.facts)
    assert summary["layers"] == sorted({site.layer for site in sites})
    assert summary["modules"] == ["mlp"] and summary["changed"] == len(summary["layers"])
    assert said.json["sentence"].startswith(f"{summary['changed']} of {summary['tensors']} tensor")
    assert sum(row["columns"] for row in said.json["most_changed"]) == len(sites)
    page = (tmp_path / "run" / "comparison.html").read_text()
    assert "Plotly.newPlot" in page and 'src="http' not in page
    assert cli("verify", tmp_path / "run").code == 0


def test_for_people_the_last_line_names_the_paths(cli, planted_folder, ablated_folder):
    said = cli("compare", planted_folder, ablated_folder, "--top", 1)
    assert said.code == 0 and " differ" in said.out.splitlines()[0] and "; rank " in said.out.splitlines()[0]
    last = said.out.rstrip().splitlines()[-1]
    assert last.startswith("Wrote runs/compare-ablated-") and last.endswith("comparison.json")
    assert said.out.count("down_proj") <= 2
    assert "comparing" in said.err


def test_the_same_checkpoint_does_not_differ(cli, planted_folder):
    said = cli("compare", planted_folder, planted_folder, "--quiet")
    assert said.code == 0 and said.out.startswith("No tensor differs: ") and said.err == ""


def test_the_same_question_is_answered_from_disk(cli, planted_folder, ablated_folder, monkeypatch):
    first = cli("compare", planted_folder, ablated_folder, "--json")

    def never(*_: object) -> None:
        raise AssertionError("compared again")

    monkeypatch.setattr("workbench.compare.compare", never)
    again = cli("compare", planted_folder, ablated_folder, "--json")
    assert again.json == first.json and "showing what is stored" in again.err


def test_options_and_order_are_other_questions(cli, planted_folder, ablated_folder):
    asked = [
        (planted_folder, ablated_folder),
        (ablated_folder, planted_folder),
        (planted_folder, ablated_folder, "--set", "singular_values=3"),
    ]
    assert len({cli("compare", *words, "--json").json["run_id"] for words in asked}) == 3


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (("--set", "singular_valuse=3"), "Did you mean 'singular_values'"),
        (("--set", "rank_tolerance=2"), "rank_tolerance"),
        (("--dtype", "float32"), "--dtype means nothing here"),
        (("--top", "0"), "top"),
    ],
)
def test_bad_options_are_told(cli, planted_folder, more, said, tmp_path):
    answer = cli("compare", planted_folder, planted_folder, *more)
    assert answer.code == 2 and said in answer.err and not (tmp_path / "runs").exists()


def test_a_damaged_checkpoint_is_told(cli, planted_folder, tmp_path):
    import shutil

    broken = tmp_path / "broken"
    shutil.copytree(planted_folder, broken)
    file = next(broken.glob("*.safetensors"))
    assert load_file(file)
    file.write_bytes(file.read_bytes()[:-8])
    said = cli("compare", planted_folder, broken)
    assert said.code == 2 and file.name in said.err
    assert cli("compare", planted_folder, tmp_path / "nowhere").code == 2


def test_other_architectures_leave_no_folder(cli, planted_folder, tmp_path):
    import json
    import shutil

    other = tmp_path / "other"
    shutil.copytree(planted_folder, other)
    config = json.loads((other / "config.json").read_text())
    (other / "config.json").write_text(json.dumps({**config, "hidden_size": 7}))
    said = cli("compare", planted_folder, other, "--out", tmp_path / "run")
    assert said.code == 2 and "hidden_size" in said.err and not (tmp_path / "run").exists()
