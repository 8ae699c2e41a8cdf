"""Stores of runs in every state, made from one audit of the planted model, and the app run over them."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from streamlit.testing.v1 import AppTest

from workbench.checkpoint import file_digest
from workbench.cli import main

ROOT = Path(__file__).parents[2]
OPT_IN = ("live",)
"""Pages that are there only when asked for: tests/app/test_live.py."""
PAGES = tuple(
    sorted(path.stem for path in (ROOT / "workbench" / "pages").glob("*.py") if path.stem not in ("__init__", *OPT_IN))
)
SMALL = {
    "reading.trace_facts": "4",
    "reading.relearn.steps": "[0, 1, 2]",
    "reading.relearn.seeds": "[0, 1]",
    "reading.probe_seeds": "1",
    "judging.draws": "200",
}


@pytest.fixture(scope="session")
def audited(planted_folder, ablated_folder, concept_file, tmp_path_factory) -> Path:
    """A finished audit with every reading; tests that change it work on a copy."""
    out = tmp_path_factory.mktemp("app") / "ablated"
    words = [str(ablated_folder), "--base", str(planted_folder), "--concept", str(concept_file), "--quiet"]
    words += [word for name, value in SMALL.items() for word in ("--set", f"{name}={value}")]
    assert main(["audit", *words, "--out", str(out)]) == 0
    return out


def resign(run: Path) -> None:
    """Enter the files as they are into the manifest, so that what was changed on purpose counts as written so."""
    manifest = json.loads((run / "manifest.json").read_text())
    names = [name for name in manifest["files"] if (run / name).is_file()]
    manifest["files"] = {name: file_digest(run / name) for name in names}
    (run / "manifest.json").write_text(json.dumps(manifest))


def change(run: Path, name: str, how: Callable[[dict], object]) -> None:
    """Change a JSON file of a run."""
    content = json.loads((run / name).read_text())
    how(content)
    (run / name).write_text(json.dumps(content))


@pytest.fixture
def full(audited, tmp_path) -> Path:
    """A store with two whole audits, one of them deeper down."""
    shutil.copytree(audited, tmp_path / "store" / "one")
    shutil.copytree(audited, tmp_path / "store" / "more" / "two")
    return tmp_path / "store"


@pytest.fixture
def partial(audited, tmp_path) -> Path:
    """A run in progress: no report yet, some readings, events."""
    run = Path(shutil.copytree(audited, tmp_path / "store" / "one"))
    for name in ("report.json", "report.html", "report.md", "evidence.parquet"):
        (run / name).unlink()
    for role in ("reference", "checkpoint"):
        for path in (run / "traces" / role).glob("causal_trace*") if (run / "traces" / role).is_dir() else ():
            path.unlink()
    change(run, "manifest.json", lambda m: m.update(status="started", files={}))
    with (run / "events.jsonl").open("a") as stream:
        stream.write(
            '{"at": "2026-01-01T00:00:00Z", "doing": "reading", "what": "logit_lens", "done": 3, "total": 12}\n'
        )
        stream.write('{"at": "2026-01-01T00:0')
    return tmp_path / "store"


@pytest.fixture
def damaged(audited, tmp_path) -> Path:
    """A finished audit whose report and one trace were changed afterwards."""
    run = Path(shutil.copytree(audited, tmp_path / "store" / "one"))
    change(run, "report.json", lambda report: report.update(level=5))
    change(run, "traces/checkpoint/causal_trace.forget.json", lambda words: words.update(units="dollars"))
    return tmp_path / "store"


@pytest.fixture
def empty(tmp_path) -> Path:
    """A folder without runs."""
    (tmp_path / "store").mkdir()
    return tmp_path / "store"


@pytest.fixture
def app(monkeypatch) -> Callable[..., AppTest]:
    """The app on a page over a store, with parameters in its URL."""

    def run(store: Path, page: str = "overview", **url: str) -> AppTest:
        monkeypatch.setenv("WORKBENCH_RUNS", str(store))
        monkeypatch.chdir(ROOT)
        made = AppTest.from_file(str(ROOT / "app.py"), default_timeout=120)
        for name, value in url.items():
            made.query_params[name] = value
        made.switch_page(str(Path("workbench/pages") / f"{page}.py"))
        return made.run()

    return run


def said(at: AppTest) -> str:
    """Every word on the page."""
    kinds = ("markdown", "caption", "text", "error", "warning", "info", "code", "header", "subheader")
    return "\n".join(str(element.value) for kind in kinds for element in at.get(kind)).replace("\\", "")


def alts(at: AppTest) -> list[str]:
    """The alternative texts of the pictures, in order."""
    return [chart.proto.alt for chart in at.get("plotly_chart")]


def figures(at: AppTest) -> list[dict]:
    """The pictures as plotly JSON."""
    return [json.loads(chart.proto.spec) for chart in at.get("plotly_chart")]
