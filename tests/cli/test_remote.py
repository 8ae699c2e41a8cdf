"""`look --remote`: the same reading over the wire, where it was taken is on record, and no key is anywhere."""

import importlib.util
import json
from pathlib import Path

import pytest

from workbench.cli.look import look
from workbench.model_remote_place import nnsight_quietly

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("nnsight") is None, reason="nnsight is in the optional extra [inside]"
)

KEY = "a-secret-key"


@pytest.fixture(autouse=True)
def no_deployment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("WORKBENCH_REMOTE_URL", raising=False)
    monkeypatch.setenv("WORKBENCH_REMOTE_KEY", KEY)
    monkeypatch.setattr(nnsight_quietly().CONFIG.API, "APIKEY", None)


def words(folder, concept_file, *more):
    return ("look", folder, "--concept", concept_file, "--probe", "logit_lens", "--limit", 4, "--json", *more)


def test_the_rehearsal_reads_the_same_and_says_that_it_was_remote(cli, planted_folder, concept_file, monkeypatch):
    monkeypatch.setenv("WORKBENCH_REMOTE_URL", "local")
    here = cli(*words(planted_folder, concept_file))
    there = cli(*words(planted_folder, concept_file, "--remote"))
    assert there.code == 0, there.err
    assert there.json["run_id"] != here.json["run_id"]
    for mine, theirs in zip(here.json["entries"], there.json["entries"], strict=True):
        assert theirs == pytest.approx(mine, abs=1e-6)
    manifest = json.loads((Path(there.json["run"]) / "manifest.json").read_text())
    assert manifest["checkpoint"]["remote"] == manifest["question"]["remote"] == "local"
    assert "remote" not in json.loads((Path(here.json["run"]) / "manifest.json").read_text())["question"]
    files = [file for file in Path(there.json["run"]).rglob("*") if file.is_file()]
    assert len(files) >= 4 and not any(KEY.encode() in file.read_bytes() for file in files)
    assert KEY not in there.out + there.err


def test_without_a_deployment_it_says_what_to_set(cli, planted_folder, concept_file, tmp_path):
    said = cli(*words(planted_folder, concept_file, "--remote"))
    assert (said.code, said.out) == (2, "")
    assert "WORKBENCH_REMOTE_URL" in said.err and "WORKBENCH_REMOTE_KEY" in said.err and KEY not in said.err
    assert not (tmp_path / "runs").exists()


def test_a_deployment_that_is_not_there_leaves_no_run(cli, planted_folder, concept_file, tmp_path, monkeypatch):
    monkeypatch.setenv("WORKBENCH_REMOTE_URL", "http://127.0.0.1:1")
    said = cli(*words(planted_folder, concept_file, "--remote", "--quiet"))
    assert (said.code, said.out) == (2, "")
    assert "The deployment 127.0.0.1:1 cannot be reached" in said.err and "refused" in said.err
    assert KEY not in said.err and not list((tmp_path / "runs").glob("*"))


@pytest.mark.parametrize(
    ("more", "why"), [(("--device", "cuda"), "device"), (("--dtype", "bfloat16"), "dtype")], ids=["device", "dtype"]
)
def test_what_a_deployment_decides_is_refused(more, why, cli, planted_folder, concept_file, monkeypatch):
    monkeypatch.setenv("WORKBENCH_REMOTE_URL", "http://127.0.0.1:1")
    monkeypatch.setattr("workbench.cli.machine.prepare_torch", lambda _: None)
    said = cli(*words(planted_folder, concept_file, "--remote", *more))
    assert said.code == 2 and f"{why} cannot be chosen for a remote model" in said.err


def test_a_reading_that_needs_gradients_is_refused(cli, planted_folder, concept_file, monkeypatch):
    monkeypatch.setenv("WORKBENCH_REMOTE_URL", "local")
    asked = ("look", planted_folder, "--concept", concept_file, "--remote", "--probe", "concept_vectors")
    said = cli(*asked, "--set", "score=effect")
    assert said.code == 2 and "a remote model can be read, not edited or trained; gradients are not sent" in said.err


def test_there_is_no_option_for_the_key():
    assert not any("key" in name or "url" in name for name in look.__annotations__)
