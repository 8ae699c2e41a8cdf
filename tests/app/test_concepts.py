"""The page of value vectors: random ones beside the found ones, the strip of all, and one vector by its name."""

import json

import numpy as np

from tests.app.conftest import alts, figures, resign, said
from tests.app.test_pages import drawn
from workbench.shelf import load_trace
from workbench.vector_moves import moves

FOUND, RANDOM, MOVED = (f"{name}_vectors.forget" for name in ("concept", "random", "moved"))


def series(figure: dict, name: str) -> dict:
    return next(one for one in figure["data"] if one.get("name") == name)


def test_the_cloud_and_the_strip_are_the_stored_numbers(app, full):
    at = app(full, "concepts", run="one")
    assert not at.exception and not at.error
    scatter, strip = figures(at)[:2]
    for key, name in ((FOUND, "checkpoint"), (RANDOM, "checkpoint, random")):
        base, after = (load_trace(full / "one", role, key) for role in ("base", "checkpoint"))
        table = moves(base, after, int(at.query_params["k"][0]))
        np.testing.assert_allclose(drawn(series(scatter, name)["y"]), table["Jaccard"])
    moved = load_trace(full / "one", "checkpoint", MOVED)
    cells = next(one for one in strip["data"] if one["type"] == "heatmap" and "meta" in one)
    np.testing.assert_allclose(drawn(cells["customdata"])[..., 0], moved.values, rtol=1e-6)
    count = int((moved.values > 0).sum())
    assert count and f"checkpoint: {count} of {moved.values.size} vectors moved" in alts(at)[1]
    assert "a vector of zeros has no direction" in said(at)  # the ablated ones have no mark


def test_a_vector_of_any_kind_is_chosen_by_its_name(app, full):
    random, moved = load_trace(full / "one", "base", RANDOM), load_trace(full / "one", "checkpoint", MOVED)
    site = random.labels["site"][0]
    at = app(full, "concepts", run="one", vector=site)
    assert at.selectbox(key="vector").value == site
    words = at.dataframe[1].value
    assert list(words["token id before"]) == random.notes["top_ids"][site][: len(words)]
    assert {metric.label.split("@")[0] for metric in at.metric} == {"Jaccard", "cosine", "length ×", "moved by"}
    kept = {*random.labels["site"], *load_trace(full / "one", "base", FOUND).labels["site"]}
    other = next(v for i in range(48) if (v := f"{moved.labels['site'][2]}[{i}]") not in kept)
    at = app(full, "concepts", run="one", vector=other)
    assert not at.error and f"Top tokens of {other}" in said(at) and "this is none of them" in said(at)
    assert [metric.label for metric in at.metric] == ["moved by"] and len(at.dataframe) == 1
    bad = app(full, "concepts", run="one", vector="L99.mlp_act[0]")
    assert len(bad.error) == 1 and "L99.mlp_act[0]" in said(bad)


def test_a_zeroed_vector_says_that_its_tokens_mean_nothing(app, full):
    after = load_trace(full / "one", "checkpoint", FOUND)
    gone = [s for s, row in zip(after.labels["site"], after.values, strict=True) if not row.any()]
    left = [s for s, row in zip(after.labels["site"], after.values, strict=True) if row.any()]
    at = app(full, "concepts", run="one", vector=gone[0])
    assert "promotes nothing" in said(at) and "–" in [metric.value for metric in at.metric]
    assert "promotes nothing" not in said(app(full, "concepts", run="one", vector=left[0]))


def test_a_run_of_before_has_cards_with_commands_and_another_run_lends_the_strip(app, full):
    for key in (RANDOM, MOVED):
        for path in (full / "one" / "traces").glob(f"*/{key}*"):
            path.unlink()
    resign(full / "one")
    at = app(full, "concepts", run="one")
    assert not at.exception and not at.error and len(alts(at)) == 2
    assert said(at).count("made before the reading existed") == 2
    commands = [code.value for code in at.code]
    assert any(c.startswith("workbench look moved_vectors ") and " --against " in c for c in commands)
    assert any(c.startswith("workbench audit ") and c.split("--out ")[1].endswith("-again") for c in commands)
    from workbench.store import RunFolder

    roles = json.loads((full / "one" / "manifest.json").read_text())["question"]["roles"]
    question = {"verb": "look", "checkpoint": roles["checkpoint"], "against": roles["base"]}
    run = RunFolder.claim(full / "look", question)
    with run.running(checkpoint={"address": "there"}):
        load_trace(full / "more" / "two", "checkpoint", MOVED).save(run.path / "traces" / "checkpoint" / MOVED)
    at = app(full, "concepts", run="one")
    assert not at.exception and not at.info and "vectors moved" in alts(at)[1]
    alone = app(full, "concepts", run="look")
    assert not alone.exception and "Concept vectors on forget: not measured" in said(alone)
    assert "vectors moved" in alts(alone)[0] and [m.label for m in alone.metric] == ["moved by"]
