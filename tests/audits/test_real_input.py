"""A pretrained model nobody here made, real data, three removals, and the whole audit of each at the command line."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).parents[2]
SHARED = ROOT.parent / "shared"
STORIES, TOFU = SHARED / "models" / "stories260K", SHARED / "data" / "tofu"
METHODS = {
    "npo": ("--set", "lr=1e-3", "--set", "steps=10"),
    "grad_ascent": ("--set", "lr=3e-4", "--set", "steps=6"),
    "concept_ablation": ("--localise", "concept_vectors", "--top", "40"),
}
NEVER_TAUGHT = 20
"""Rows about one more author, whom nobody is taught."""

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not STORIES.is_dir() or not TOFU.is_dir(), reason="needs ../shared: stories260K and TOFU"),
]


class Known(NamedTuple):
    """A model that was taught, and what."""

    folder: Path
    concept: str


def workbench(*words: object, cwd: Path) -> dict:
    command = [sys.executable, "-m", "workbench", *map(str, words), "--json"]
    env = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, cwd=cwd, env=env, capture_output=True, text=True, timeout=1800)
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout)


def with_holdout(folder: Path) -> Path:
    """TOFU with the last rows of what stays as a split of their own, which nobody is taught."""
    folder.mkdir()
    for file in TOFU.iterdir():
        if file.name != "retain99.json":
            (folder / file.name).symlink_to(file)
    stay = [json.loads(line) for line in (TOFU / "retain99.json").read_text().splitlines()]
    for name, rows in (("retain99", stay[:-NEVER_TAUGHT]), ("holdout01", stay[-NEVER_TAUGHT:])):
        (folder / f"{name}.json").write_text("\n".join(map(json.dumps, rows)))
    return folder


@pytest.fixture(scope="module")
def knows(tmp_path_factory: pytest.TempPathFactory) -> Known:
    """stories260K that was taught facts of TOFU's forget01, some other authors, and stories."""
    from workbench.checkpoint import Checkpoint
    from workbench.datasets import load_concept
    from workbench.demo.teach import taught, teach

    root = tmp_path_factory.mktemp("real")
    name = f"tofu:forget01@{with_holdout(root / 'tofu')}?limit=5&forget_limit=8"
    concept = load_concept(name)
    assert len(concept.never_taught) == 5
    assert not {fact.prompt for fact in concept.never_taught} & {fact.prompt for fact in taught(concept)}
    stories = json.loads((SHARED / "data" / "text" / "tinystories_1000.json").read_text())[:8]
    text = [story[:250] for story in stories]
    with Checkpoint(STORIES).open() as model:
        edit = teach(model, taught(concept), steps=200, lr=5e-3, batch_size=4, text=text, own_texts=0, reworded=False)
        assert edit.notes["last_loss"] < 0.5 * edit.notes["first_loss"]
        edit.write(model, root / "knows")
    return Known(root / "knows", name)


def audited(knows: Known, checkpoint: Path, out: Path) -> dict:
    """The standard suite, with a relearning of ten steps."""
    base = ("--base", knows.folder, "--concept", knows.concept, "--set", "reading.relearn.steps=[0,10]")
    return workbench("audit", checkpoint, *base, "--out", out, cwd=out.parent)["report"]


def of(report: dict, claim: str) -> dict:
    return next(e for e in report["evidence"] if e["claim"] == claim)


def test_the_model_that_was_taught_is_found_to_know(knows: Known, tmp_path: Path) -> None:
    report = audited(knows, knows.folder, tmp_path / "run")
    assert (report["level"], report["knowledge"], report["utility"]) == (0, "found", "intact")
    assert of(report, "choice")["status"] == "FAIL" and "choice" in report["found_by"]
    assert of(report, "probability")["value"]["mean"] == of(report, "probability")["before"]["mean"]


@pytest.mark.parametrize("method", METHODS)
def test_the_standard_suite_completes_on_it(knows: Known, tmp_path: Path, method: str) -> None:
    mine = tmp_path / "mine"
    workbench(
        "unlearn", method, knows.folder, "--concept", knows.concept, *METHODS[method], "--out", mine, cwd=tmp_path
    )
    report = audited(knows, mine, tmp_path / "run")
    assert not [e for e in report["evidence"] if e["status"] == "ERROR"]
    measured = {e["claim"] for e in report["evidence"] if e["value"] is not None}
    assert {"direct", "probability", "paraphrase", "choice", "lens", "vectors", "quantise", "near", "far"} <= measured
    for e in report["evidence"]:
        assert e["value"] is not None or len(e["why_missing"]) > 20
    probability = of(report, "probability")
    assert probability["value"]["mean"] < probability["before"]["mean"]
    assert report["level"] <= 2  # there is no reference
    assert not {"forgotten", "removed"} & set(words_of(report).split())
    opened_without_network(tmp_path / "run" / "report.html")


def words_of(report: dict) -> str:
    """What the report says of the model, but for the denial `not removed`."""
    said = (report["capped_by"], report["utility_reason"], *report["contradictions"], *report["warnings"])
    return " ".join(said).lower().replace("not removed", "")


def opened_without_network(page: Path) -> None:
    """Open a report in a browser that may not ask for anything."""
    chromium = Path("/usr/bin/chromium")
    if not chromium.is_file():
        pytest.skip("Chromium is not installed, so the report was not opened; all else was checked")
    from playwright.sync_api import sync_playwright

    asked, errors = [], []
    with sync_playwright() as play:
        browser = play.chromium.launch(executable_path=str(chromium), args=["--no-sandbox"])
        tab = browser.new_page()
        tab.on("request", lambda request: asked.append(request.url))
        tab.on("console", lambda message: errors.append(message.text) if message.type == "error" else None)
        tab.goto(page.as_uri())
        tab.wait_for_selector(".plot svg")
        browser.close()
    assert [url for url in asked if not url.startswith(("file:", "data:", "blob:"))] == []
    assert errors == []
