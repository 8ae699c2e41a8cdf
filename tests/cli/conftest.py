"""The command line called in this process, and one audit that many tests read."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from workbench.cli import main

FAST = (
    "--set",
    "reading.trace_facts=0",
    "--set",
    "reading.shown=false",
    "--set",
    "reading.relearn.steps=[0, 1]",
    "--set",
    "reading.relearn.seeds=[0]",
    "--set",
    "reading.probe_seeds=1",
    "--set",
    "judging.draws=200",
)


class Said(NamedTuple):
    """What one command did."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        """The one object on stdout."""
        return json.loads(self.out, parse_constant=lambda name: pytest.fail(f"{name} is not JSON"))


Cli = Callable[..., Said]


@pytest.fixture
def cli(capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Cli:
    """Run a command in an empty folder."""
    monkeypatch.chdir(tmp_path)

    def run(*words: object) -> Said:
        capsys.readouterr()
        code = main([str(word) for word in words])
        said = capsys.readouterr()
        assert "Traceback" not in said.err
        return Said(code, said.out, said.err)

    return run


@pytest.fixture(scope="session")
def audit_run(
    planted_folder: Path, ablated_folder: Path, concept_file: Path, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """A finished audit of the ablated model; tests that change it work on a copy."""
    out = tmp_path_factory.mktemp("audits") / "run"
    assert (
        main(
            [
                "audit",
                str(ablated_folder),
                "--base",
                str(planted_folder),
                "--concept",
                str(concept_file),
                *FAST,
                "--out",
                str(out),
                "--quiet",
            ]
        )
        == 0
    )
    return out


@pytest.fixture
def changed_concept(concept_file: Path, tmp_path: Path) -> Callable[..., Path]:
    """The concept file with something changed by a function on its content."""

    def change(how: Callable[[dict[str, Any]], object]) -> Path:
        content = json.loads(concept_file.read_text())
        how(content)
        path = tmp_path / "changed.json"
        path.write_text(json.dumps(content))
        return path

    return change


@pytest.fixture(scope="session")
def fast() -> tuple[str, ...]:
    """The smallest budget an audit can have."""
    return FAST
