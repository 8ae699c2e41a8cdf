"""The demo's job on planted models (fast), and the whole of it on the real ones (slow)."""

import json
import shutil
from pathlib import Path

import pytest

from audits.attacks.relearn import Relearn
from audits.read import ReadingOptions
from workbench.cli import main
from workbench.cli.demo_job import CLAIM_OF, COLUMNS, DemoOptions, Result, question_of, run
from workbench.comparison import Comparison
from workbench.datasets import load_concept
from workbench.demo.pair import Pair
from workbench.store import RunFolder, verify

QUICK = DemoOptions(
    neurons=10,
    reading=ReadingOptions(
        shown=False, probe_seeds=1, trace_facts=2, relearn=Relearn(steps=(0, 2), seeds=(0,), share=0.2)
    ),
)

NAMES = ["taught", "concept_ablation", "concept_ablation-random", "grad_ascent", "npo", "reference"]


@pytest.fixture(scope="module")
def planted_pair(planted, planted_folder: Path, ablated_folder: Path):
    """The planted model stands for the taught one, the one without the facts for the reference."""
    pair = Pair(planted_folder, ablated_folder)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("workbench.cli.demo_job.build_pair", lambda *_, **__: pair)
        patch.setattr("workbench.cli.demo_job.load_concept", lambda _: planted.concept)
        yield


@pytest.fixture(scope="module")
def finished(planted_pair, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Result]:
    """A finished run; copy it before changing anything."""
    out = tmp_path_factory.mktemp("demo") / "run"
    return out, done(out)


def done(out: Path, told: list[str] | None = None) -> Result:
    return run(QUICK, out, lambda what, *_: None if told is None else told.append(what))


def test_every_removal_is_made_audited_and_told(finished) -> None:
    out, result = finished
    rows = {row["method"]: row for row in result.rows}
    assert list(rows) == NAMES
    assert all(tuple(row) == COLUMNS for row in result.rows)
    assert rows["taught"]["level"] == "U0"
    assert rows["taught"]["forget"] > 0.9
    assert rows["concept_ablation"]["forget"] < 0.1 < 0.8 < rows["concept_ablation-random"]["forget"]
    assert all(path.exists() for path in result.paths)
    assert json.loads((out / "table.json").read_text())["rows"] == result.rows
    for name in NAMES:
        report = json.loads((out / "audits" / name / "report.json").read_text())
        values = {e["claim"]: e["value"] for e in report["evidence"]}
        assert {c: rows[name][c] for c in CLAIM_OF} == {
            c: values[claim] and values[claim]["mean"] for c, claim in CLAIM_OF.items()
        }
    assert {path.name for path in (out / "comparisons").iterdir()} == set(NAMES) - {"taught"}
    kept = Comparison.load(out / "comparisons" / "concept_ablation-random")
    assert set(kept.changed["matrix"]) == {"down_proj"} and kept.made_by["checkpoint"] != kept.made_by["base"]
    assert verify(out) == []


def test_a_second_run_makes_nothing_again_and_a_lost_part_only(finished, tmp_path: Path) -> None:
    out, first = finished
    shutil.copytree(out, tmp_path / "run")
    told: list[str] = []
    assert done(tmp_path / "run", told).rows == first.rows
    assert told == []
    shutil.rmtree(tmp_path / "run" / "npo")
    shutil.rmtree(tmp_path / "run" / "audits" / "npo")
    assert done(tmp_path / "run", told).rows == first.rows
    assert {what for what in told if what.startswith("unlearning")} == {"unlearning by npo"}


@pytest.mark.slow
def test_interrupted_it_goes_on(planted_pair, tmp_path: Path) -> None:
    def stop(what: str, *_: object) -> None:
        if what.startswith("unlearning by npo"):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(QUICK, tmp_path / "run", stop)
    assert json.loads((tmp_path / "run" / "manifest.json").read_text())["status"] == "interrupted"
    assert not (tmp_path / "run" / "npo").exists()
    assert len(done(tmp_path / "run").rows) == len(NAMES)


def test_another_topic_needs_another_folder(planted_pair, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    RunFolder.claim(tmp_path / "run", question_of(DemoOptions()))
    assert main(["demo", "--concept", "music", "--out", str(tmp_path / "run")]) == 2
    assert "another run" in capsys.readouterr().err


def test_an_unknown_topic_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("workbench.cli.demo_job.load_concept", load_concept)
    assert main(["demo", "--concept", "alchemy", "--out", str(tmp_path / "run")]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert "'alchemy'" in err
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["dense", "moe"])
def test_the_whole_demo(kind: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["demo", "--json", "--quiet", "--out", str(tmp_path / "run"), *(["--moe"] if kind == "moe" else [])]
    assert main(words) == 0
    found = json.loads(capsys.readouterr().out)
    rows = {row["method"]: row for row in found["rows"]}
    assert list(rows) == NAMES
    assert rows["taught"]["forget"] > 0.95
    assert rows["reference"]["forget"] < 0.15
    assert rows["npo"]["forget"] < 0.15
    assert rows["concept_ablation"]["forget"] < rows["concept_ablation-random"]["forget"] - 0.1
    assert rows["concept_ablation"]["utility"] == "intact"
    assert int(rows["reference"]["level"][1]) >= 2
    assert found["contradiction"]
