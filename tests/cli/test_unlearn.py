"""`unlearn`: an ordinary checkpoint that has forgotten, its edit, and a receipt of what changed."""

import json
from pathlib import Path

import pytest

from workbench.checkpoint import Checkpoint
from workbench.scoring import score


def knows(folder, facts) -> float:
    with Checkpoint(folder).open() as model:
        return float(score(model, facts.facts).greedy.double().mean())


def test_at_the_true_sites_it_removes_the_facts_and_only_them(cli, planted, planted_folder, concept_file, tmp_path):
    concept, out = planted.concept, tmp_path / "run"
    where = [word for site in planted.sites_of(concept.forget.facts) for word in ("--where", str(site))]
    said = cli(
        "unlearn",
        planted_folder,
        "--concept",
        concept_file,
        "--method",
        "concept_ablation",
        "--set",
        "mode=zero",
        *where,
        "--out",
        out,
        "--json",
    )
    assert said.code == 0, said.err
    assert knows(out / "checkpoint", concept.forget) == 0
    assert knows(out / "checkpoint", concept.near) == 1
    (row,) = said.json["receipt"]
    assert row["tensor"] == "model.layers.1.mlp.down_proj.weight" and row["entries_changed"] == 10 * 128
    assert json.loads((out / "receipt.json").read_text()) == said.json["receipt"]
    assert cli("verify", out).code == 0


def test_a_probe_says_where_and_random_sites_are_the_control(cli, planted, planted_folder, concept_file, tmp_path):
    def left(name: str) -> float:
        said = cli(
            "unlearn",
            planted_folder,
            "--concept",
            concept_file,
            "--method",
            "concept_ablation",
            "--set",
            "mode=zero",
            "--localise",
            name,
            "--top",
            12,
            "--out",
            tmp_path / name,
            "--json",
        )
        assert said.code == 0, said.err
        assert len(said.json["notes"]["neurons"]) == 12
        return knows(tmp_path / name / "checkpoint", planted.concept.forget)

    assert left("concept_vectors") <= 0.5 < 0.7 <= left("random")
    assert (tmp_path / "concept_vectors" / "traces" / "checkpoint" / "concept_vectors.forget.safetensors").is_file()


def test_gradient_methods_need_no_sites_and_show_their_loss(cli, planted_folder, concept_file):
    said = cli("unlearn", planted_folder, "--concept", concept_file, "--method", "npo", "--set", "steps=3", "--seed", 4)
    assert said.code == 0, said.err
    assert "[3/3] unlearning by npo loss" in said.err
    assert "more tensors in receipt.json" in said.out
    (edit,) = Path("runs").glob("unlearn-npo-*/edit.json")
    made = json.loads(edit.read_text())
    assert made["made_by"]["seed"] == 4 and made["made_by"]["steps"] == 3


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ((), "concept_ablation must be told where to act: give --where SITE"),
        (("--where", "L1.mlp_act[3]", "--localise", "random"), "give one of them"),
        (("--where", "L1.mlp_act[3]", "--top", "3"), "add --localise PROBE"),
        (("--localise", "concept_vector"), "Did you mean 'concept_vectors'?"),
        (("--localise", "logit_lens"), "names no sites"),
        (("--where", "layer 3"), "is not a site"),
        (("--where", "L7.mlp_act[3]"), "L0.mlp_act[0..47] to L2.mlp_act[0..47]"),
    ],
)
def test_where_must_make_sense(cli, planted_folder, concept_file, words, message):
    said = cli("unlearn", planted_folder, "--concept", concept_file, "--method", "concept_ablation", *words)
    assert (said.code, said.out) == (2, "")
    assert message in said.err


def test_an_interrupted_unlearning_keeps_the_edit_it_had(cli, planted_folder, concept_file, tmp_path, monkeypatch):
    command = (
        "unlearn",
        planted_folder,
        "--concept",
        concept_file,
        "--method",
        "concept_ablation",
        "--localise",
        "random",
        "--out",
        tmp_path / "run",
        "--json",
    )

    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("workbench.edited_folder.require_only", interrupted)
        said = cli(*command)
    assert (said.code, said.out) == (130, "")
    assert "interrupted; run the same command again to resume" in said.err
    assert json.loads((tmp_path / "run" / "manifest.json").read_text())["status"] == "interrupted"
    assert not (tmp_path / "run" / "checkpoint").exists()

    def never(self, model, concept, where) -> None:
        raise AssertionError("the edit was fitted again")

    with monkeypatch.context() as patch:
        patch.setattr("interventions.concept_ablation.ConceptAblation.fit", never)
        again = cli(*command)
    assert again.code == 0
    assert Checkpoint(tmp_path / "run" / "checkpoint").digest
    assert cli("verify", tmp_path / "run").code == 0
