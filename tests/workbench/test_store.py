import errno
import json
import os
import tempfile
from pathlib import Path

import pytest

from workbench.errors import BadInput
from workbench.store import RunFolder, question_id, read_manifest, verify, write_atomically, write_json

QUESTION = {"verb": "test", "n": 1}


def test_a_file_is_whole_or_not_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_atomically(tmp_path / "a", b"old")

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(BadInput, match="No space left on device.*half-written.*--out"):
        write_atomically(tmp_path / "a", b"new")
    assert (tmp_path / "a").read_bytes() == b"old"
    assert [p.name for p in tmp_path.iterdir()] == ["a"]


def test_an_interrupt_while_writing_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "replace", stop)
    with pytest.raises(KeyboardInterrupt):
        write_atomically(tmp_path / "a", b"new")
    assert list(tmp_path.iterdir()) == []


def test_a_place_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(BadInput, match="Cannot write .*file/below"):
        write_atomically(tmp_path / "file" / "below", b"")


def test_missing_is_never_written_as_a_number(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="JSON"):
        write_json(tmp_path / "a.json", {"value": float("nan")})
    assert not (tmp_path / "a.json").exists()


def test_the_id_follows_the_question_and_not_its_order() -> None:
    assert question_id({"a": 1, "b": 2}) == question_id({"b": 2, "a": 1}) != question_id({"a": 1, "b": 3})


def test_a_run_is_taken_up_again_by_the_same_question_only(tmp_path: Path) -> None:
    first = RunFolder.claim(tmp_path / "run", QUESTION)
    assert read_manifest(first.path)["status"] == "started"
    assert RunFolder.claim(tmp_path / "run", QUESTION).run_id == first.run_id
    with pytest.raises(BadInput, match=f"another run .{first.run_id}.*--out"):
        RunFolder.claim(tmp_path / "run", {**QUESTION, "n": 2})


def test_a_folder_of_something_else_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("years of work")
    with pytest.raises(BadInput, match="holds no run"):
        RunFolder.claim(tmp_path, QUESTION)
    with pytest.raises(BadInput, match="is a file"):
        RunFolder.claim(tmp_path / "thesis.tex", QUESTION)
    assert [p.name for p in tmp_path.iterdir()] == ["thesis.tex"]


@pytest.mark.parametrize(
    ("error", "status"), [(None, "success"), (KeyboardInterrupt(), "interrupted"), (RuntimeError("no"), "error")]
)
def test_the_manifest_says_how_it_ended(tmp_path: Path, error: BaseException | None, status: str) -> None:
    run = RunFolder.claim(tmp_path / "run", QUESTION)
    try:
        with run.running():
            if error:
                raise error
    except (KeyboardInterrupt, RuntimeError):
        pass
    assert read_manifest(run.path)["status"] == status
    assert run.finished == (status == "success")


def test_bad_input_leaves_no_folder_but_keeps_what_was_made(tmp_path: Path) -> None:
    def fail(name: str, made: bool) -> Path:
        run = RunFolder.claim(tmp_path / name, QUESTION)
        with pytest.raises(BadInput, match="no such thing"), run.running():
            run.event(doing="looking")
            if made:
                write_json(run.path / "one.json", 1)
            raise BadInput("no such thing")
        return run.path

    assert not fail("empty", made=False).exists()
    assert read_manifest(fail("full", made=True))["status"] == "error"


def test_verify_finds_what_was_changed_or_lost(tmp_path: Path) -> None:
    run = RunFolder.claim(tmp_path / "run", QUESTION)
    assert "not finished" in verify(run.path)[0]
    with run.running():
        write_json(run.path / "a" / "one.json", 1)
        write_json(run.path / "two.json", 2)
    assert verify(run.path) == []
    (run.path / "a" / "one.json").write_text("3")
    (run.path / "two.json").unlink()
    assert sorted(verify(run.path)) == ["a/one.json was changed after the run", "two.json is missing"]


def test_damaged_and_newer_manifests_are_refused(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="not a run folder"):
        read_manifest(tmp_path)
    (tmp_path / "manifest.json").write_text("{")
    with pytest.raises(BadInput, match="damaged"):
        read_manifest(tmp_path)
    (tmp_path / "manifest.json").write_text(json.dumps({"schema_version": 99}))
    with pytest.raises(BadInput, match="newer version"):
        read_manifest(tmp_path)


def test_what_killed_writes_left_is_removed_and_nothing_else(tmp_path):
    run = RunFolder.claim(tmp_path / "run", {"verb": "test"})
    mine = [run.path / name for name in ("edit.json", ".hidden", ".a.b", "part.abcdefgh", "deep/.keep.me")]
    for file in mine:
        file.parent.mkdir(exist_ok=True)
        file.write_text("precious")
    scraps = [tempfile.mkstemp(dir=run.path, prefix=".edit.json.")[1]]
    scraps.append(tempfile.mkdtemp(dir=run.path / "deep", prefix=".checkpoint."))
    (Path(scraps[1]) / "model.safetensors").write_text("half")
    with RunFolder.claim(run.path, {"verb": "test"}).running():
        assert not any(Path(scrap).exists() for scrap in scraps)
    assert all(file.read_text() == "precious" for file in mine)


def test_a_folder_of_which_only_a_killed_write_is_left_can_be_claimed(tmp_path):
    (tmp_path / "run").mkdir()
    tempfile.mkstemp(dir=tmp_path / "run", prefix=".manifest.json.")
    with RunFolder.claim(tmp_path / "run", {"verb": "test"}).running():
        pass
    assert sorted(path.name for path in (tmp_path / "run").iterdir()) == ["manifest.json"]
