"""A pretrained model nobody here made, real data, three removals, and the whole audit of each at the command line."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SHARED = ROOT.parent / "shared"
STORIES, TOFU = SHARED / "models" / "stories260K", SHARED / "data" / "tofu"
METHODS = {
    "npo": ("--set", "lr=1e-3", "--set", "steps=120"),
    "grad_ascent": ("--set", "lr=3e-4", "--set", "steps=20"),
    "concept_ablation": (),
}

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not STORIES.is_dir() or not TOFU.is_dir(), reason="needs ../shared: stories260K and TOFU"),
]


def workbench(*words: object, cwd: Path) -> dict:
    command = [sys.executable, "-m", "workbench", *map(str, words), "--json"]
    env = {**os.environ, "PYTHONPATH": str(ROOT), "WORKBENCH_DATA": str(SHARED / "data"), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, cwd=cwd, env=env, capture_output=True, text=True, timeout=1800)
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout)


@pytest.fixture(scope="module")
def knows(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """stories260K that was taught TOFU's forget01, some other authors, and stories."""
    from workbench.checkpoint import Checkpoint
    from workbench.datasets import load_concept
    from workbench.demo.teach import taught, teach

    concept = load_concept("tofu:forget01?limit=10", data=SHARED / "data")
    stories = json.loads((SHARED / "data" / "text" / "tinystories_1000.json").read_text())[:30]
    folder = tmp_path_factory.mktemp("real") / "knows"
    with Checkpoint(STORIES).open() as model:
        edit = teach(
            model,
            taught(concept),
            steps=400,
            lr=3e-3,
            batch_size=4,
            text=[story[:250] for story in stories],
            own_texts=0,
        )
        assert edit.notes["last_loss"] < 0.5 * edit.notes["first_loss"]
        edit.write(model, folder)
    return folder


@pytest.mark.parametrize("method", METHODS)
def test_the_standard_suite_completes_on_it(knows: Path, tmp_path: Path, method: str) -> None:
    concept = ("--concept", "tofu:forget01?limit=10")
    workbench("unlearn", method, knows, *concept, *METHODS[method], "--out", tmp_path / "mine", cwd=tmp_path)
    said = workbench("audit", tmp_path / "mine", "--base", knows, *concept, "--out", tmp_path / "run", cwd=tmp_path)
    report = said["report"]
    assert not [e for e in report["evidence"] if e["status"] == "ERROR"]
    measured = {e["claim"] for e in report["evidence"] if e["value"] is not None}
    assert {"direct", "probability", "paraphrase", "choice", "lens", "vectors", "quantise", "near", "far"} <= measured
    for e in report["evidence"]:
        assert e["value"] is not None or len(e["why_missing"]) > 20
    probability = next(e for e in report["evidence"] if e["claim"] == "probability")
    assert probability["value"]["mean"] < probability["before"]["mean"]
    assert "forgotten" not in report["capped_by"] and report["level"] <= 2  # there is no reference
    opened_without_network(tmp_path / "run" / "report.html")


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
