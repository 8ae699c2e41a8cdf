"""The shelf: which runs lie where, in what state, and that nothing outside is read."""

import json

import numpy as np
import pytest

from workbench.errors import BadInput
from workbench.shelf import command_of, damage, events, inside, load_trace, runs_on, trace_keys
from workbench.store import RunFolder
from workbench.trace import Trace


def run(path, status: str = "success", verb: str = "look") -> RunFolder:
    made = RunFolder.claim(path, {"verb": verb, "at": str(path)})
    Trace("lens", np.ones(2), ("layer",), "nats", {"layer": ("L0", "L1")}).save(
        path / "traces" / "base" / "lens.forget"
    )
    made.write_manifest(status)
    return made


def test_runs_are_found_at_any_depth_but_not_in_readings_or_hidden_folders(tmp_path):
    for name in ("a", "a/audits/b", ".hidden/c", "a/traces/d"):
        run(tmp_path / name)
    assert {found.name for found in runs_on(tmp_path)} == {"a", "a/audits/b"}


@pytest.mark.parametrize(
    ("status", "state"),
    [("success", "finished"), ("started", "running"), ("error", "stopped"), ("interrupted", "stopped")],
)
def test_states(tmp_path, status, state):
    run(tmp_path / "a", status)
    assert [found.state for found in runs_on(tmp_path)] == [state]


@pytest.mark.parametrize(
    ("text", "state"), [("{", "damaged"), ("[]", "damaged"), ("{}", "damaged"), ('{"schema_version": 9}', "newer")]
)
def test_a_manifest_that_cannot_be_used(tmp_path, text, state):
    run(tmp_path / "a")
    (tmp_path / "a" / "manifest.json").write_text(text)
    (found,) = runs_on(tmp_path)
    assert found.state == state and found.why


def test_a_finished_audit_without_its_report_is_damaged(tmp_path):
    run(tmp_path / "a", verb="audit")
    assert runs_on(tmp_path)[0].state == "damaged"


def test_damage_names_files_and_never_hashes_outside(tmp_path):
    run(tmp_path / "a")
    manifest = json.loads((tmp_path / "a" / "manifest.json").read_text())
    assert damage(tmp_path / "a", manifest) == {}
    name = "traces/base/lens.forget.json"
    (tmp_path / "a" / name).write_text("x")
    assert damage(tmp_path / "a", manifest) == {name: "was changed after the run"}
    manifest["files"]["../../etc/passwd"] = "0"
    assert "leads out of the folder" in damage(tmp_path / "a", manifest)["../../etc/passwd"]


def test_paths_stay_in_the_folder(tmp_path):
    run(tmp_path / "a")
    assert load_trace(tmp_path / "a", "base", "lens.forget").values.tolist() == [1, 1]
    assert trace_keys(tmp_path / "a") == {"base": ("lens.forget",)}
    for name in ("../x", "/etc/passwd"):
        with pytest.raises(BadInput, match="leads out of the folder"):
            inside(tmp_path / "a", name)
    with pytest.raises(BadInput, match="leads out of the folder"):
        load_trace(tmp_path / "a", "../../../a", "lens.forget")


def test_events_leave_out_what_is_being_written(tmp_path):
    run(tmp_path / "a").event(doing="x")
    with (tmp_path / "a" / "events.jsonl").open("a") as stream:
        stream.write('[1]\n{"doing": ')
    assert [said["doing"] for said in events(tmp_path / "a")] == ["x"]


def test_the_command_of_an_audit_that_another_verb_made(tmp_path):
    about = {role: {"address": f"my {role}"} for role in ("checkpoint", "base", "reference")}
    manifest = {"argv": ["demo"], "question": {"verb": "audit"}, "checkpoints": about}
    told = command_of(tmp_path, manifest, "demo:x")
    assert told.startswith(
        "workbench audit 'my checkpoint' --base 'my base' --reference 'my reference' --concept demo:x"
    )
    assert command_of(tmp_path, {**manifest, "argv": ["audit", "a b"]}) == "workbench audit 'a b'"
