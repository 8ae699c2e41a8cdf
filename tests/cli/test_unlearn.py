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
    assert not list(Path("runs").glob("*"))  # nothing is left behind


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


class TestTheTwoForms:
    def test_the_method_may_stand_before_the_checkpoint(self, cli, planted, planted_folder, concept_file, tmp_path):
        site = planted.sites_of(planted.concept.forget.facts[:1])[0]
        words = ("--concept", concept_file, "--where", site, "--set", "mode=zero", "--json")
        said = cli("unlearn", "concept_ablation", planted_folder, *words, "--out", tmp_path / "a")
        assert said.code == 0, said.err
        other = cli("unlearn", planted_folder, "--method", "concept_ablation", *words, "--out", tmp_path / "b")
        assert other.json["run_id"] == said.json["run_id"]

    @pytest.mark.parametrize(
        ("words", "message"),
        [
            (("npo", "a", "b"), "Give one method and one model"),
            (("npo", "a", "--method", "npo"), "Give one method and one model"),
            (("somewhere",), "What to unlearn 'somewhere' with?"),
            (("nop", "somewhere"), "Did you mean 'npo'?"),
        ],
    )
    def test_what_is_missing_is_said(self, cli, concept_file, words, message):
        said = cli("unlearn", *words, "--concept", concept_file)
        assert (said.code, said.out) == (2, "")
        assert message in said.err


class TestControls:
    def test_the_three_stand_side_by_side(self, cli, planted, planted_folder, concept_file, tmp_path):
        where = [w for site in planted.sites_of(planted.concept.forget.facts) for w in ("--where", str(site))]
        words = ("--concept", concept_file, "--set", "mode=zero", *where, "--controls", "--out", tmp_path / "run")
        said = cli("unlearn", "concept_ablation", planted_folder, *words, "--json")
        assert said.code == 0, said.err
        rows = {row["sites"]: row for row in said.json["controls"]}
        assert list(rows) == ["before", "as given", "random sites", "all sites"]
        assert [rows["as given"][name] for name in ("forget", "near", "far")] == [0, 1, 1]
        assert rows["random sites"]["forget"] > 0.6 and rows["random sites"]["count"] == len(where) / 2
        assert rows["all sites"]["near"] == 0 and rows["before"]["forget"] == 1
        assert rows["random sites"]["edit"] != rows["all sites"]["edit"]
        assert json.loads((tmp_path / "run" / "controls.json").read_text()) == said.json["controls"]
        again = cli("unlearn", "concept_ablation", planted_folder, *words)
        assert "What is left after concept_ablation" in again.out and "random sites" in again.out

    def test_without_sites_there_is_nothing_to_compare(self, cli, planted_folder, concept_file):
        said = cli("unlearn", "npo", planted_folder, "--concept", concept_file, "--set", "steps=1", "--controls")
        assert said.code == 2 and "was not told where to act" in said.err
        said = cli("unlearn", "guard_decoding", planted_folder, "--concept", concept_file, "--controls")
        assert said.code == 2 and "does not act at chosen sites" in said.err
        assert not list(Path("runs").glob("*"))  # refused before anything was fitted


class TestAStoredReading:
    @pytest.fixture
    def looked(self, cli, planted_folder, concept_file, tmp_path):
        words = ("--concept", concept_file, "--set", "score=effect", "--set", "describe=0", "--set", "keep=10")
        said = cli("look", "concept_vectors", planted_folder, *words, "--out", tmp_path / "looked", "--json")
        assert said.code == 0, said.err
        return said.json

    def test_its_sites_are_where(self, cli, planted, planted_folder, concept_file, tmp_path, looked):
        words = ("--concept", concept_file, "--set", "mode=zero", "--where", f"run:{looked['run']}", "--top", 10)
        said = cli("unlearn", "concept_ablation", planted_folder, *words, "--out", tmp_path / "run", "--json")
        assert said.code == 0, said.err
        assert set(said.json["notes"]["neurons"]) == set(map(str, planted.sites_of(planted.concept.forget.facts)))

    def test_a_run_that_is_not_there_or_names_no_sites_is_refused(
        self, cli, planted_folder, concept_file, tmp_path, looked
    ):
        words = ("unlearn", "concept_ablation", planted_folder, "--concept", concept_file)
        missing = cli(*words, "--where", "run:nowhere")
        assert missing.code == 2 and "means no runs" in missing.err
        lens = cli("look", "logit_lens", planted_folder, "--concept", concept_file, "--out", tmp_path / "lens")
        assert lens.code == 0, lens.err
        other = cli(*words, "--where", f"run:{tmp_path / 'lens'}")
        assert other.code == 2 and "holds 0 readings that name sites" in other.err
        both = cli(*words, "--where", f"run:{looked['run']}", "--where", "L1.mlp_act[3]")
        assert both.code == 2 and "leave out the other" in both.err


class TestAGuard:
    @pytest.fixture
    def guarded(self, cli, planted_folder, concept_file, tmp_path):
        out = tmp_path / "run"
        said = cli("unlearn", "guard_decoding", planted_folder, "--concept", concept_file, "--out", out, "--json")
        assert said.code == 0, said.err
        return out, said.json

    def test_it_is_written_beside_its_base_and_says_what_it_is(self, cli, planted, concept_file, guarded):
        out, said = guarded
        assert said["kind"] == "hooks" and said["receipt"] == []
        assert str(out / "guarded") in said["paths"] and not (out / "checkpoint").exists()
        assert knows(out / "guarded", planted.concept.forget) == 0
        assert knows(out / "guarded", planted.concept.near) == 1
        shown = cli("unlearn", "guard_decoding", planted_folder_of(out), "--concept", concept_file, "--out", out)
        assert "whoever has them can leave the guard away" in shown.out

    def test_its_audit_reads_recovery_without_it_and_says_so(self, cli, planted_folder, concept_file, guarded, fast):
        out, _ = guarded
        words = ("--base", planted_folder, "--concept", concept_file, "--out", out / "audit", *fast, "--json")
        said = cli("audit", out, *words)
        assert said.code == 0, said.err
        report = said.json["report"]
        assert report["roles"]["checkpoint"]["guard"] == "guard_decoding"
        claims = {e["claim"]: e for e in report["evidence"]}
        assert claims["direct"]["value"]["mean"] == 0
        assert claims["quantise"]["value"]["mean"] == claims["quantise"]["before"]["mean"] > 0.9
        for name in ("report.html", "report.md"):
            text = (out / "audit" / name).read_text()
            assert "A guard, not a removal" in text and "still hold the knowledge" in text
        assert "Guard " in cli("audit", out, *words[:-1]).out

    def test_an_ordinary_checkpoint_is_not_called_a_guard(self, audit_run):
        assert "A guard, not a removal" not in (audit_run / "report.html").read_text()


def planted_folder_of(run) -> str:
    return json.loads((run / "guarded" / "guard.json").read_text())["base"]


@pytest.mark.parametrize(
    "name", ["npo", *(pytest.param(n, marks=pytest.mark.slow) for n in ("task_vector", "adaptive_rmu"))]
)
def test_a_training_that_was_stopped_goes_on_to_the_same_bytes(
    cli, planted_folder, concept_file, tmp_path, monkeypatch, name
):
    from workbench.cli import unlearn

    words = ("unlearn", name, planted_folder, "--concept", concept_file, "--set", "steps=60", "--set", "lr=1e-3")
    whole = cli(*words, "--out", tmp_path / "whole", "--json")
    assert whole.code == 0, whole.err
    told = unlearn._Told.__call__

    def interrupted(self, done: int, *more: object) -> None:
        told(self, done, *more)
        if done == 55:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(unlearn._Told, "__call__", interrupted)
        assert cli(*words, "--out", tmp_path / "run", "--json").code == 130
    kept = list((tmp_path / "run" / unlearn.KEPT).rglob("*.safetensors"))
    assert len(kept) == 1
    again = cli(*words, "--out", tmp_path / "run", "--json")
    assert again.code == 0, again.err
    assert "[1/60]" not in again.err and "[60/60]" in again.err
    edits = [json.loads((tmp_path / run / "edit.json").read_text())["digest"] for run in ("whole", "run")]
    assert edits[0] == edits[1]
    assert not (tmp_path / "run" / unlearn.KEPT).exists()


@pytest.mark.parametrize("kind", ["lora", "fila"])
def test_an_adapter_is_written_beside_the_checkpoint_and_opens_with_its_base(
    cli, planted_folder, concept_file, tmp_path, kind
):
    out = tmp_path / "run"
    command = ("unlearn", "npo", planted_folder, "--concept", concept_file, "--adapter", kind, "--out", out)
    said = cli(*command, "--set", "steps=2", "--set", "lr=1e-2", "--set", "adapter_rank=2")
    assert said.code == 0, said.err
    assert f"The adapter alone opens as {planted_folder}+{out / 'adapter'}" in said.out
    assert str(out / "adapter") in said.out.splitlines()[-1]
    with (
        Checkpoint(out / "checkpoint").open() as merged,
        Checkpoint(f"{planted_folder}+{out / 'adapter'}").open() as two,
    ):
        moved = [name for name in merged.parameter_names() if not _close(merged.parameter(name), two.parameter(name))]
        assert not moved and merged.digest != two.digest
    assert cli("verify", out).code == 0
    again = cli(
        "unlearn", "npo", f"{planted_folder}+{out / 'adapter'}", *command[3:-1], tmp_path / "on", "--set", "steps=1"
    )
    assert again.code == 0, again.err
    assert not (tmp_path / "on" / "adapter").exists() and "opens as" not in again.out  # its base is not stored whole


def _close(one, other) -> bool:
    return bool(((one - other).abs() <= 1e-6 + 1e-5 * other.abs()).all())


def test_an_adapter_is_for_methods_that_can_train_one(cli, planted_folder, concept_file):
    base = ("unlearn", "--concept", concept_file)
    for words, message in (
        (("ssd", planted_folder, "--adapter", "lora"), "Ssd has no option 'adapter'"),
        (("npo", planted_folder, "--adapter", "dora"), "'none', 'lora' or 'fila'"),
        (("npo", planted_folder, "--adapter", "lora", "--set", "adapter=fila"), "adapter is given twice"),
        (("npo", planted_folder, "--adapter", "lora", "--where", "L1.mlp_act[3]"), "single neurons and heads"),
    ):
        said = cli(base[0], *words, *base[1:])
        assert said.code == 2 and message in said.err and not said.out
