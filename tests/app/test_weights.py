"""The page Weights over real comparisons of the planted model: what is stored is drawn, what is missing is a card."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from tests.app.conftest import alts, figures, resign, said
from workbench.checkpoint import Checkpoint
from workbench.cli.compare_job import compare_all
from workbench.comparison_rows import LATER
from workbench.store import RunFolder
from workbench.trace import Trace

FOUND = {
    "site": "L1.mlp_act",
    "direction": 0,
    "share": 0.7,
    "answer_token": " <i>opal",
    "answer_cosine": 0.8,
    "answer_p": 0.001,
    "vector": "L1.mlp_act[3]",
    "vector_cosine": 0.3,
    "vector_p": 0.4,
}
"""An entry of `alignment` as the probe writes it."""


@pytest.fixture
def compared(full: Path, planted_folder: Path, ablated_folder: Path) -> Path:
    """A store with the comparison of the audited checkpoint, made as the demo makes it."""
    compare_all(planted_folder, {"own": ablated_folder}, full / "comparisons", lambda *_: None)
    return full


def look(store: Path, name: str, found: list[dict], **question: str) -> None:
    """A run of `look weight_deltas` on the shelf."""
    roles = json.loads((store / "one" / "manifest.json").read_text())["question"]["roles"]
    run = RunFolder.claim(
        store / name, {"verb": "look", "checkpoint": roles["checkpoint"], "against": roles["base"], **question}
    )
    notes = {"alignment": found, "why_no_alignment": None if found else "it was not asked for (directions=0)"}
    axes = {"layer": ("L0", "L1"), "module": ("mlp",)}
    with run.running(checkpoint={"address": "there"}):
        trace = Trace("weight_deltas", np.array([[0.0], [0.5]]), tuple(axes), "share of the base's norm", axes, notes)
        (run.path / "traces" / "checkpoint").mkdir(parents=True)
        trace.save(run.path / "traces" / "checkpoint" / "weight_deltas.forget")


def code(at) -> str:
    return "\n".join(block.value for block in at.code)


def test_the_chosen_tensor_is_drawn_beside_its_base(app: Callable, compared: Path) -> None:
    at = app(compared, "weights", run="one")
    assert not at.exception and not at.error and at.selectbox(key="diff").value == "comparisons/own"
    table = pd.read_parquet(compared / "comparisons" / "own" / "comparison.parquet")
    changed = table[table["status"] == "changed"]
    tensor = at.selectbox(key="tensor").options
    assert len(tensor) == len(changed) + 1 and at.selectbox(key="tensor").value == "most"
    told = alts(at)
    for words in ("Overlap of the change of L", "Cosines of the change's directions", "Entries of the change of L"):
        assert sum(words in alt for alt in told) == 1, words
    name = changed.iloc[-1]["tensor"]
    at = app(compared, "weights", run="one", tensor=name, stat="left_overlap")
    assert alts(at)[0].startswith("Overlap with the base's leading left directions, layer by matrix: from ")
    assert f"L{changed.iloc[-1]['layer']} mlp" in next(alt for alt in alts(at) if alt.startswith("Entries"))
    series = next(s for f in figures(at) for s in f["data"] if s.get("type") == "bar")
    assert sum(v for v in np.asarray(counts(series["y"]), float) if v == v) == changed.iloc[-1]["entries"]
    assert len(app(compared, "weights", run="one", tensor="lost").error) == 1


def counts(drawn) -> list:
    from tests.app.test_pages import drawn as numbers

    return list(numbers(drawn))


def test_the_reference_is_beside_it_where_it_was_compared(app: Callable, compared: Path, ablated_folder: Path) -> None:
    at = app(compared, "weights", run="one")
    assert "no comparison of the base with the reference is on the shelf" in said(at).replace("No ", "no ")
    assert "workbench compare" in code(at) and "REFERENCE" in code(at)
    manifest = json.loads((compared / "one" / "manifest.json").read_text())
    roles = manifest["question"]["roles"]
    roles["reference"] = Checkpoint(ablated_folder).digest
    (compared / "one" / "manifest.json").write_text(json.dumps(manifest))
    roles["checkpoint"] = "0" * 64
    own = json.loads((compared / "comparisons" / "own" / "manifest.json").read_text())
    other = RunFolder.claim(compared / "other", {**own["question"], "checkpoint": "0" * 64})
    with other.running(checkpoint={"address": "there"}):
        for file in ("comparison.parquet", "comparison.json"):
            (other.path / file).write_bytes((compared / "comparisons" / "own" / file).read_bytes())
    at = app(compared, "weights", run="one", diff="other")
    assert not at.exception and at.selectbox(key="gold").value == "comparisons/own"
    assert "no comparison of the base" not in said(at)
    beside = next(alt for alt in alts(at) if "checkpoint: " in alt)
    assert beside.startswith("Relative change against the base. checkpoint: ") and "; reference: " in beside
    at = app(compared, "weights", run="one", diff="other", gold="none")
    assert not any("reference: " in alt for alt in alts(at))


def test_an_older_comparison_says_what_it_lacks_and_draws_the_rest(app: Callable, compared: Path) -> None:
    run = compared / "comparisons" / "own"
    pd.read_parquet(run / "comparison.parquet").drop(columns=list(LATER)).to_parquet(run / "comparison.parquet")
    words = json.loads((run / "comparison.json").read_text())
    words["made_by"] = {k: v for k, v in words["made_by"].items() if k not in ("base_directions", "overlap_below")}
    (run / "comparison.json").write_text(json.dumps(words))
    resign(run)
    at = app(compared, "weights", run="one")
    assert not at.exception and not at.error
    assert "and took neither" in said(at) and "Largest: " in alts(at)[0]
    assert not any(alt.startswith(("Overlap", "Cosines", "Entries")) for alt in alts(at))
    at = app(compared, "weights", run="one", stat="right_overlap")
    assert not at.exception and "did not take it" in said(at)


def test_what_the_change_points_at(app: Callable, compared: Path) -> None:
    at = app(compared, "weights", run="one")
    assert "workbench look weight_deltas" in code(at) and "--against" in code(at)
    look(compared, "deltas", [FOUND, FOUND | {"site": "L0.mlp_act", "answer_p": 0.9}])
    at = app(compared, "weights", run="one")
    assert "look weight_deltas" not in code(at) and at.selectbox(key="site").value == "L1.mlp_act"
    assert any("nearest answer token: 1 of 2 directions nearer than chance" in alt for alt in alts(at))
    at = app(compared, "weights", run="one", site="L0.mlp_act")
    assert any(alt.startswith("The change at L0.mlp_act: ") for alt in alts(at))
    assert "<i>" not in json.dumps(figures(at)[-1]["data"])


def test_a_reading_without_directions_says_so(app: Callable, compared: Path) -> None:
    look(compared, "deltas", [])
    assert "it was not asked for (directions=0)" in said(app(compared, "weights", run="one")).replace("It ", "it ")
