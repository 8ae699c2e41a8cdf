"""`audit`: a verdict with its evidence, gates, judging again, and going on after Ctrl-C."""

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from workbench.report import read_report

ROOT = Path(__file__).parents[2]


@pytest.fixture
def again(audit_run, planted_folder, ablated_folder, concept_file, fast):
    """The words of the audit that lies on disk already."""
    return ("audit", ablated_folder, "--base", planted_folder, "--concept", concept_file, *fast, "--out", audit_run)


def test_the_verdict_for_people(cli, again):
    said = cli(*again)
    assert said.code == 0
    report = read_report(Path(again[-1]))
    lines = said.out.splitlines()
    assert lines[0].split(maxsplit=1) == ["Verdict", report.verdict]
    assert "Capped by" in said.out and "Utility" in said.out
    told = said.out.replace("\n", " ")
    for evidence in report.evidence:
        assert evidence.claim in told
    assert "Not asked   " in said.out and "latent_perturbation" not in report.checks
    assert lines[-1] == f"Wrote {again[-1]}/report.html {again[-1]}/report.md {again[-1]}/report.json"


def test_the_verdict_for_machines(cli, again):
    said = cli(*again, "--json")
    assert said.json["report"]["level"] >= 1
    assert said.json["report"] == json.loads((Path(again[-1]) / "report.json").read_text())
    direct = next(e for e in said.json["report"]["evidence"] if e["claim"] == "direct")
    assert (direct["before"]["mean"], direct["value"]["mean"]) == (1, 0)


def test_gates_have_codes_of_their_own(cli, again):
    assert cli(*again, "--require", "u1").code == 0
    below = cli(*again, "--require", "U5", "--strict")
    assert below.code == 3 and "below the required U5" in below.err
    assert below.out.startswith("Verdict")  # the result is given all the same
    strict = cli(*again, "--strict")
    assert strict.code == 4 and "Undecided under --strict: " in strict.err
    wrong = cli(*again, "--require", "U9")
    assert wrong.code == 2 and "There are: U0, U1, U2, U3, U4, U5" in wrong.err


def test_an_untouched_model_is_not_removed(cli, planted_folder, concept_file, fast):
    said = cli(
        "audit", planted_folder, "--base", planted_folder, "--concept", concept_file, *fast, "--require", "U1", "--json"
    )
    assert said.code == 3
    assert said.json["report"]["level"] == 0
    assert said.json["run"].startswith("runs/audit-planted-")


def test_judging_again_needs_no_model(cli, audit_run, monkeypatch, tmp_path):
    monkeypatch.setattr("workbench.checkpoint.Checkpoint.open", lambda *_: pytest.fail("a model was opened"))
    before = read_report(audit_run)
    same = cli("audit", "--rejudge", audit_run, "--out", tmp_path / "same", "--json")
    assert same.json["report"]["evidence"] == before.model_dump(mode="json")["evidence"]
    other = cli("audit", "--rejudge", audit_run, "--set", "judging.margin=0.35", "--json")
    assert other.json["run"].startswith("runs/rejudge-ablated-")
    report = other.json["report"]
    assert report["options"]["judging"]["margin"] == 0.35 and report["options"]["judging"]["draws"] == 200
    assert report["margins_digest"] != before.margins_digest
    assert cli("verify", other.json["run"]).code == 0
    assert cli("verify", audit_run).code == 0


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("audit",), "An audit needs CHECKPOINT, --base DIR"),
        (("audit", "--rejudge", "RUN", "--base", "x"), "leave out --base"),
        (("audit", "--rejudge", "RUN", "--set", "reading.vectors=3"), "takes no new readings"),
        (("audit", "--rejudge", "nowhere"), "'nowhere' has no report.json"),
        (("audit", "--set", "margin=0.1"), "No group of options called 'margin'"),
        (("audit", "--set", "judging=0.1"), "write --set judging.OPTION=VALUE"),
        (("audit", "--rejudge", "RUN", "--set", "judging.margine=1"), "Did you mean 'margin'?"),
        (("audit", "--rejudge", "RUN", "--set", "judging.margin=2"), "less than 1"),
        (("audit", "--seed", "1", "--set", "judging.seed=2"), "given twice"),
    ],
)
def test_an_impossible_audit_says_what_is_missing(cli, audit_run, words, message):
    said = cli(*(str(audit_run) if word == "RUN" else word for word in words))
    assert (said.code, said.out) == (2, "")
    assert message in said.err


def test_an_option_inside_an_option_is_checked(cli, planted_folder, concept_file):
    said = cli(
        "audit",
        planted_folder,
        "--base",
        planted_folder,
        "--concept",
        concept_file,
        "--set",
        "reading.relearn.step=[0, 1]",
    )
    assert said.code == 2
    assert "Relearn has no option 'step'. Did you mean 'steps'?" in said.err


def test_ctrl_c_keeps_what_was_read(cli, planted_folder, concept_file, tmp_path, monkeypatch, fast):
    monkeypatch.setenv("WORKBENCH_CACHE_DIR", str(tmp_path / "cache"))
    command = (
        "audit",
        planted_folder,
        "--base",
        planted_folder,
        "--concept",
        concept_file,
        *fast,
        "--out",
        tmp_path / "run",
    )

    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("audits.behaviour.answers.BestOfN.look", interrupted)
        said = cli(*command)
    assert (said.code, said.out) == (130, "")
    assert "interrupted; run the same command again to resume" in said.err
    assert json.loads((tmp_path / "run" / "manifest.json").read_text())["status"] == "interrupted"
    kept = {path: path.stat().st_mtime_ns for path in (tmp_path / "cache").rglob("*.safetensors")}
    assert len(kept) >= 6
    assert cli(*command).code == 0
    assert {path: path.stat().st_mtime_ns for path in kept} == kept
    assert cli("verify", tmp_path / "run").code == 0


@pytest.mark.slow
def test_a_real_ctrl_c_ends_a_real_process(planted_folder, concept_file, tmp_path):
    command = [
        sys.executable,
        "-m",
        "workbench",
        "audit",
        planted_folder,
        "--base",
        planted_folder,
        "--concept",
        concept_file,
        "--out",
        tmp_path / "run",
    ]
    environment = {**os.environ, "WORKBENCH_CACHE_DIR": str(tmp_path / "cache")}
    with subprocess.Popen(
        command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stderr is not None
        next(line for line in process.stderr if "linear_probes" in line)
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=60)
    assert (process.returncode, out) == (130, "")
    assert "interrupted; run the same command again to resume" in err and "Traceback" not in err
    assert json.loads((tmp_path / "run" / "manifest.json").read_text())["status"] == "interrupted"


def test_different_tokenizers_cannot_be_compared(cli, planted_folder, concept_file, tmp_path):
    other = shutil.copytree(planted_folder, tmp_path / "other")
    words = (other / "tokenizer.json").read_text()
    assert 'house"' in words
    (other / "tokenizer.json").write_text(words.replace('house"', 'hause"'))
    said = cli("audit", other, "--base", planted_folder, "--concept", concept_file)
    assert (said.code, said.out) == (2, "")
    assert "different tokenizers" in said.err and "the base it was made from" in said.err
    assert not (tmp_path / "runs").exists()


def test_several_checkpoints_share_a_base_and_get_a_folder_each(
    cli, planted_folder, ablated_folder, concept_file, fast, tmp_path
):
    words = ("audit", ablated_folder, planted_folder, "--base", planted_folder, "--concept", concept_file, *fast)
    said = cli(*words, "--suite", "quick", "--out", tmp_path / "both", "--json")
    assert said.code == 0
    names = [Path(one["run"]).name for one in said.json["audits"]]
    assert names == [ablated_folder.name, planted_folder.name]
    assert [one["report"]["level"] for one in said.json["audits"]][1] == 0
    assert (tmp_path / "both" / planted_folder.name / "report.html").is_file()
    people = cli(*words, "--suite", "quick", "--out", tmp_path / "both", "--require", "U1")
    assert people.code == 3  # one of the two is below
    assert "strongest contradiction" in people.out and "below the required U1" in people.err


def test_only_the_checks_that_are_named(cli, planted_folder, ablated_folder, concept_file, fast):
    words = ("audit", ablated_folder, "--base", planted_folder, "--concept", concept_file, *fast)
    said = cli(*words, "--checks", "direct, lens", "--json")
    statuses = {e["claim"]: e["status"] for e in said.json["report"]["evidence"]}
    assert statuses["direct"] == "PASS" and statuses["relearn"] == "NOT_RUN"
    assert cli(*words, "--checks", "direct", "--strict").code == 0  # what was not asked is not undecided
    wrong = cli(*words, "--checks", "lense")
    assert wrong.code == 2 and "Did you mean 'lens'" in wrong.err
    unknown = cli(*words, "--suite", "fast")
    assert unknown.code == 2 and "There are: full, quick, standard" in unknown.err
