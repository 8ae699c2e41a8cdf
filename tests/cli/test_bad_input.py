"""Every mistake a caller can make: exit 2, an empty stdout, one message that says what came and what to do."""

import errno
import json
import os
import shutil

import pytest

LOOK = ("look", "MODEL", "--concept", "CONCEPT", "--probe", "accuracy")


@pytest.fixture
def refused(cli, planted_folder, concept_file):
    """Run a command that must be refused; returns the message. Words in capitals stand for the fixtures."""
    places = {"MODEL": planted_folder, "CONCEPT": concept_file}

    def run(*words: object) -> str:
        said = cli(*(places.get(str(word), word) for word in words))
        assert (said.code, said.out) == (2, "")
        assert said.err.strip()
        return said.err

    return run


@pytest.mark.parametrize(
    ("words", "parts"),
    [
        (("lok",), ["No verb called 'lok'", "Did you mean 'look'?", "audit"]),
        (
            ("look", "MODEL", "--concept", "CONCEPT", "--probe", "logitlens"),
            [
                "No probe or behavioural reading or membership score called 'logitlens'",
                "Did you mean 'logit_lens'?",
                "accuracy",
            ],
        ),
        (("unlearn", "MODEL", "--concept", "CONCEPT", "--method", "nop"), ["No intervention called 'nop'", "'npo'"]),
        (("look", "MODEL", "--concept", "CONCEPT"), ["What to look into", "Name a reading", "list probes"]),
        (("look", "accuracy", "MODEL"), ["Missing option '--concept'", "look --help"]),
        (("look",), ["Missing argument '[PROBE] CHECKPOINT'"]),
        ((*LOOK, "--prob", "x"), ["look has no option '--prob'", "Did you mean '--probe'?"]),
        ((*LOOK, "--limit", "0"), ["--limit", "1"]),
        ((*LOOK, "--limit", "few"), ["--limit", "integer"]),
        ((*LOOK, "--set", "m=3"), ["Accuracy has no option 'm'"]),
        ((*LOOK[:-1], "best_of_n", "--set", "n=0"), ["Option 'n' of BestOfN", "greater than or equal to 1", "got 0"]),
        ((*LOOK[:-1], "best_of_n", "--set", "n"), ["--set 'n' is no setting", "--set key=value"]),
        ((*LOOK[:-1], "best_of_n", "--set", "n=[1"), ["is not valid YAML"]),
        ((*LOOK[:-1], "best_of_n", "--set", "n=1", "--set", "n=2"), ["given twice"]),
        (
            ("unlearn", "MODEL", "--concept", "CONCEPT", "--method", "npo", "--seed", "1", "--set", "seed=2"),
            ["given twice"],
        ),
        ((*LOOK, "--on", "nearby"), ["accuracy cannot read 'nearby'", "Did you mean 'near'?"]),
        ((*LOOK, "--on", "retain"), ["has no retain facts", "forget (10), near (8), far (8), never_taught (8)"]),
        (
            ("look", "missing", "--concept", "CONCEPT", "--probe", "accuracy"),
            ["There is no checkpoint folder 'missing'", "Hugging Face folder"],
        ),
        (
            ("look", "MODEL", "--concept", "missing.json", "--probe", "accuracy"),
            ["There is no concept file 'missing.json'"],
        ),
        (("look", "MODEL", "--concept", "demo:chemisty", "--probe", "accuracy"), ["Did you mean 'chemistry'?"]),
        (("look", "MODEL", "--concept", "demos:chemistry", "--probe", "accuracy"), ["Did you mean 'demo'?"]),
        (("look", "MODEL", "--concept", "chemistry", "--probe", "accuracy"), ["'chemistry' is no concept"]),
        (("look", "MODEL", "--concept", "CONCEPT", "--probe", "expert_attribution"), ["dense model", "no experts"]),
        ((*LOOK, "--device", "cuda:99"), ["Cannot use the device 'cuda:99'", "This machine has: cpu"]),
    ],
)
def test_a_mistake_is_told_with_what_is_allowed(refused, words, parts):
    message = refused(*words)
    for part in parts:
        assert part in message


@pytest.mark.parametrize(
    ("change", "parts"),
    [
        (
            lambda c: c["forget"][2].pop("answer"),
            ["forget row 3: field 'answer' is missing", "subject, prompt and answer"],
        ),
        (lambda c: c["near"][0].update(prompt=" "), ["near row 1", "'prompt' is empty"]),
        (lambda c: c["forget"][1].update(subject="Nobody"), ["forget row 2", "does not contain its subject 'Nobody'"]),
        (lambda c: c["forget"].clear(), ["is empty: there is nothing to audit or unlearn", "at least one fact"]),
        (lambda c: c.update(forgot=[]), ["unknown part 'forgot'", "Did you mean 'forget'?"]),
        (lambda c: c.update(forget={"a": 1}), ["'forget' must be a list of facts"]),
    ],
)
def test_a_concept_file_that_cannot_be_used(refused, changed_concept, change, parts):
    message = refused("look", "MODEL", "--concept", changed_concept(change), "--probe", "accuracy")
    for part in parts:
        assert part in message


def test_an_answer_that_tokenises_to_nothing(refused, planted_folder, changed_concept, tmp_path):
    deaf = shutil.copytree(planted_folder, tmp_path / "deaf")
    tokenizer = json.loads((deaf / "tokenizer.json").read_text())
    tokenizer["normalizer"] = {"type": "Replace", "pattern": {"String": " ß"}, "content": ""}
    (deaf / "tokenizer.json").write_text(json.dumps(tokenizer))
    concept = changed_concept(lambda c: c["forget"][0].update(answer="ß"))
    message = refused("look", deaf, "--concept", concept, "--probe", "accuracy")
    assert "The answer 'ß'" in message and "tokenises to nothing" in message
    assert "give an answer it has tokens for" in message


def test_a_folder_that_is_no_checkpoint(refused, tmp_path):
    (tmp_path / "empty").mkdir()
    assert "has no config.json" in refused("look", tmp_path / "empty", *LOOK[2:])
    (tmp_path / "empty" / "config.json").write_text("{}")
    (tmp_path / "empty" / "pytorch_model.bin").write_bytes(b"")
    assert "Pickled weights" in refused("look", tmp_path / "empty", *LOOK[2:])


def test_output_under_a_file_cannot_be_written(refused):
    assert "Cannot write '/dev/null/x" in refused(*LOOK, "--out", "/dev/null/x")
    assert "'/dev/null' is a file; name a folder" in refused(*LOOK, "--out", "/dev/null")


def test_output_into_a_folder_that_holds_something_else(refused, cli, planted_folder, concept_file, tmp_path):
    (tmp_path / "stray").mkdir()
    (tmp_path / "stray" / "thesis.tex").write_text("precious")
    assert "is not empty and holds no run" in refused(*LOOK, "--out", tmp_path / "stray")
    assert [path.name for path in (tmp_path / "stray").iterdir()] == ["thesis.tex"]
    assert cli("look", planted_folder, "--concept", concept_file, "--probe", "accuracy", "--out", "run").code == 0
    before = (tmp_path / "run" / "manifest.json").read_bytes()
    message = refused("look", "MODEL", "--concept", "CONCEPT", "--probe", "accuracy", "--on", "near", "--out", "run")
    assert "holds another run" in message and "Name another folder with --out" in message
    assert (tmp_path / "run" / "manifest.json").read_bytes() == before


def full_after(writes: int):
    """`os.replace` on a disk that is full after some files."""
    real, done = os.replace, []

    def replace(source, target):
        done.append(target)
        if len(done) > writes:
            raise OSError(errno.ENOSPC, "No space left on device")
        real(source, target)

    return replace


@pytest.mark.parametrize("writes", [0, 1, 2, 3])
def test_a_full_disk_leaves_nothing_half_written(
    refused, cli, planted_folder, concept_file, tmp_path, monkeypatch, writes
):
    command = (*LOOK, "--out", tmp_path / "run")
    with monkeypatch.context() as patch:
        patch.setattr("os.replace", full_after(writes))
        message = refused(*command)
    assert "No space left on device" in message and "run the same command again" in message
    left = [path for path in (tmp_path / "run").rglob("*") if path.is_file()]
    kept = 0 if writes == 1 else writes  # a run of which only the manifest stands is taken away again
    assert len(left) == kept and not any(path.name.startswith(".") for path in left)
    for path in left:
        if path.suffix == ".json":
            json.loads(path.read_text())
    said = cli("look", planted_folder, "--concept", concept_file, "--probe", "accuracy", "--out", tmp_path / "run")
    assert said.code == 0
    assert cli("verify", tmp_path / "run").code == 0


def test_a_full_disk_while_writing_a_checkpoint(refused, tmp_path, monkeypatch):
    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("workbench.edited_folder.shutil.copyfile", full)
    message = refused(
        "unlearn",
        "MODEL",
        "--concept",
        "CONCEPT",
        "--method",
        "concept_ablation",
        "--localise",
        "random",
        "--out",
        tmp_path / "run",
    )
    assert "Cannot write the checkpoint" in message and "No space left" in message
    assert not any("checkpoint" in path.name for path in (tmp_path / "run").iterdir())
    assert json.loads((tmp_path / "run" / "manifest.json").read_text())["status"] == "error"


def test_a_full_disk_anywhere_else_is_a_sentence_too(refused, monkeypatch):
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device", "somewhere")

    monkeypatch.setattr("audits.behaviour.answers.Accuracy.look", full)
    assert "Cannot write 'somewhere': the disk is full; free some space" in refused(*LOOK)


def test_a_run_that_fails_for_another_reason_exits_1(cli, planted_folder, concept_file, monkeypatch):
    from workbench.errors import RunError

    def failed(*_: object) -> None:
        raise RunError("the loss became NaN; lower lr")

    monkeypatch.setattr("audits.behaviour.answers.Accuracy.look", failed)
    said = cli("look", planted_folder, "--concept", concept_file, "--probe", "accuracy")
    assert (said.code, said.out) == (1, "")
    assert "the loss became NaN; lower lr" in said.err


def test_ctrl_c_while_looking(cli, planted_folder, concept_file, monkeypatch, tmp_path):
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    command = ("look", planted_folder, "--concept", concept_file, "--probe", "accuracy", "--out", tmp_path / "run")
    with monkeypatch.context() as patch:
        patch.setattr("audits.behaviour.answers.Accuracy.look", interrupted)
        said = cli(*command)
    assert (said.code, said.out) == (130, "")
    assert "interrupted; run the same command again to resume" in said.err
    assert json.loads((tmp_path / "run" / "manifest.json").read_text())["status"] == "interrupted"
    assert cli(*command).code == 0
