"""`report`, `verify`, `list` and `doctor` on what a run left."""

import json
import shutil

import pytest

from workbench.cli.doctor import clashes


@pytest.fixture
def run(audit_run, tmp_path):
    """A copy of a finished audit, to be changed."""
    return shutil.copytree(audit_run, tmp_path / "copy")


def test_report_draws_into_the_run_and_the_run_still_verifies(cli, run):
    (run / "report.html").write_text("old")
    said = cli("report", run, "--json")
    assert said.code == 0
    assert said.json["paths"] == [str(run / name) for name in ("report.html", "report.md", "report.json")]
    assert (run / "report.html").read_text().startswith("<!")
    assert cli("verify", run).code == 0


def test_report_elsewhere_and_in_one_format(cli, run, tmp_path):
    said = cli("report", run, "--format", "md", "--out", tmp_path / "there")
    assert said.code == 0
    assert [path.name for path in (tmp_path / "there").iterdir()] == ["report.md"]
    assert said.out.splitlines()[-1] == f"Wrote {tmp_path}/there/report.md"


def test_a_report_changed_by_hand_fails_verification_even_after_drawing(cli, run):
    content = json.loads((run / "report.json").read_text())
    content["level"] = 5
    (run / "report.json").write_text(json.dumps(content))
    assert cli("report", run).code == 0
    said = cli("verify", run, "--json")
    assert said.code == 1
    assert said.json["problems"] == ["report.json was changed after the run"]


def test_verify_names_what_is_missing(cli, run):
    (run / "traces" / "base" / "accuracy.forget.json").unlink()
    (run / "report.md").write_text("U5")
    said = cli("verify", run)
    assert said.code == 1
    assert "traces/base/accuracy.forget.json is missing" in said.out
    assert "report.md was changed after the run" in said.out


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("report", "nowhere"), "has no report.json; "),
        (("report", "RUN", "--format", "pdf"), "No format called 'pdf'"),
        (("report", "RUN", "--out", "/dev/null/x"), "Cannot write '/dev/null/x"),
        (("verify", "nowhere"), "'nowhere' is not a run folder: it has no manifest.json"),
        (("list", "probe"), "Did you mean 'probes'?"),
        (("list", "probes", "logit_lense"), "Did you mean 'logit_lens'?"),
        (("list", "claims", "prob"), "Did you mean 'probe'?"),
        (("list", "runs", "nowhere"), "is not a run folder"),
        (("doctor", "nowhere"), "There is no checkpoint folder 'nowhere'"),
        (("doctor", "--device", "cuda:77"), "Cannot use the device 'cuda:77'"),
        (("doctor", "--device", "gpu"), "This machine has: cpu"),
    ],
)
def test_what_is_not_there(cli, run, words, message):
    said = cli(*(str(run) if word == "RUN" else word for word in words))
    assert (said.code, said.out) == (2, "")
    assert message in said.err


@pytest.mark.parametrize(
    "damage", ["[]", "{}", "{", '{"schema_version": 99, "status": "success", "run_id": "", "files": {}}']
)
def test_a_damaged_manifest_is_no_bug(cli, run, damage):
    (run / "manifest.json").write_text(damage)
    said = cli("verify", run)
    assert (said.code, said.out) == (2, "")
    assert "damaged" in said.err or "newer version" in said.err


def test_list_shows_every_catalogue(cli, run):
    found = cli("list", "--json").json
    assert {"probes", "behaviour", "interventions", "attacks", "claims", "concepts"} < set(found)
    assert all(row["name"] and row["about"] for kind in found if kind != "verb" for row in found[kind])
    runs = cli("list", "runs", "--runs", run.parent, "--json").json["runs"]
    assert [(row["name"], row["verb"], row["status"]) for row in runs] == [("copy", "audit", "success")]
    assert cli("list", "runs").out == "No runs in runs\n"


def test_list_one_shows_its_options_and_source(cli, run):
    card = cli("list", "interventions", "npo", "--json").json
    steps = next(option for option in card["options"] if option["name"] == "steps")
    assert steps == {"name": "steps", "type": "int, ≥ 1", "default": 80, "doc": "Number of updates."}
    shown = cli("list", "attacks", "relearn").out
    assert "Source: Lynch et al. 2024" in shown and "tuple[int, ...]" in shown
    assert cli("list", "concepts", "demo:chemistry", "--json").json["forget"] == 80
    assert cli("list", "claims", "probe", "--json").json["reading"] == "linear_probes.forget"
    assert cli("list", "runs", "copy", "--runs", run.parent, "--json").json["status"] == "success"


def test_doctor_finds_this_installation_sound(cli, planted_folder):
    said = cli("doctor", planted_folder, "--json")
    assert said.code == 0
    assert said.json["problems"] == []
    model = said.json["model"]
    assert len(model["checks"]) >= 20 and all(row["passed"] for row in model["checks"])
    assert model["architecture"] == "LlamaForCausalLM"
    assert {"part": "mlp_act", "layers": [0, 1, 2], "width": 48}.items() <= model["sites"][-1].items()
    assert "no layer is a mixture" in model["lacking"]["router"]
    assert "All is well" in cli("doctor").out


def test_doctor_shows_every_check_of_an_unsound_model(cli, planted_folder, monkeypatch):
    monkeypatch.setattr("workbench.model_check.TOLERANCE", {})
    # A decoder that skips the final norm.
    monkeypatch.setattr("workbench.model.HookedModel.decode", lambda self, resid: self.decoder.unembed(resid))
    said = cli("doctor", planted_folder)
    assert said.code == 1
    assert "Problem: final norm and unembedding give the logits" in said.out


def test_doctor_tells_of_another_package_with_our_name():
    owners = {"workbench": ["unlearning-workbench", "workbench"], "probes": ["unlearning_workbench"]}
    found = {finding.what: finding for finding in clashes(owners)}
    assert not found["package workbench"].ok
    assert "also brought by workbench; uninstall it" in found["package workbench"].value
    assert found["package probes"].ok and found["package audits"].ok


def test_doctor_tells_of_a_package_found_elsewhere(tmp_path, monkeypatch):
    class Elsewhere:
        origin = str(tmp_path / "probes" / "__init__.py")

    monkeypatch.setattr("workbench.cli.doctor.find_spec", lambda name: Elsewhere)
    assert all(not finding.ok and "another package of that name" in finding.value for finding in clashes({}))


def test_doctor_tells_of_a_cache_that_cannot_be_written(cli, monkeypatch):
    monkeypatch.setenv("WORKBENCH_CACHE_DIR", "/dev/null/cache")
    said = cli("doctor")
    assert said.code == 1 and "set WORKBENCH_CACHE_DIR" in said.out


def test_threads_must_be_a_number(cli, monkeypatch):
    monkeypatch.setenv("WORKBENCH_THREADS", "many")
    said = cli("doctor")
    assert said.code == 2 and "WORKBENCH_THREADS is 'many'" in said.err
