"""The page of SAE features: what it draws is what the run holds, older runs say what they lack, a layer is a row."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.app.conftest import alts, figures, said
from workbench.store import RunFolder
from workbench.trace import Trace

ALONE = ("forget", "retain", "attribution")
WITH_DONOR = (*ALONE, "forget_mean", "forget_change", "retain_change", "forget_mean_change")
NASTY = "<img src=x>"


def store(full: Path, name: str, question: dict, trace: Trace) -> None:
    run = RunFolder.claim(full / name, question)
    with run.running(checkpoint={"address": "there"}):
        trace.save(run.path / "traces/checkpoint/sae_features.forget")


@pytest.fixture
def asked(full) -> dict[str, Any]:
    """The question of a run about the checkpoint and the base of Run A."""
    roles = json.loads((full / "one" / "manifest.json").read_text())["question"]["roles"]
    return {"verb": "look", "checkpoint": roles["checkpoint"], "against": roles["base"]}


def single() -> Trace:
    return Trace(
        "sae_features",
        np.array([[0.5, 0.0, 1.0], [0.1, 0.4, 0.0], [0.0, 0.0, 0.0]], np.float32),
        ("feature", "measure"),
        "see measure",
        {"feature": ("7", "8", "9"), "measure": ALONE},
        {
            "found": [7],
            "features": {"7": {"promotes": ["<img>"], "suppresses": ["b", "▁c"]}},
            "explained_variance": {"forget": 0.9},
        },
    )


def paired(site: str = "L2.resid_post", **more: Any) -> Trace:
    """Feature 8 is killed, 9 silenced, 10 new; 7 fires more."""
    values = [
        [0.5, 0, 1, 2, 0.4, 0, 1.5],
        [0.0, 0.4, 0, 0, -0.3, 0.1, -1],
        [0.1, 0, 0, 1, -0.3, 0, -2],
        [0.2, 0, 0, 1, 0.2, 0, 1],
    ]
    notes: dict[str, Any] = {
        "site": site,
        "identity": "a",
        "facts_digest": "f",
        "found": [7],
        "features": {"8": {"promotes": ["x"], "suppresses": ["y"]}},
        "explained_variance": {"forget": 0.5},
        "reconstruction_error": {"forget": 3.0},
        "sae": {"made_for": {"neuronpedia_id": "gemma-2-2b/9-res-16k"}},
        "before": {
            "model": "b",
            "identity": "d",
            "explained_variance": {"forget": 0.9},
            "reconstruction_error": {"forget": 1.0},
        },
        "change": {
            "tested": 4,
            "found": 1,
            "q_below": 0.05,
            "facts": 20,
            "subjects": 10,
            "tokens": 99,
            "smallest_p": 2**-9,
            "signs": 512,
            "all_signs": True,
            "by_feature": {"feature": [7, 8, 9, 10], "p": [0.002, 1.0, 0.3, 0.4], "q": [0.008, 1.0, 0.5, 0.5]},
        },
        "intervals": {"7": {"change": 0.4, "low": 0.3, "high": 0.45}, "8": {"change": -0.3, "low": -0.9, "high": 0.0}},
        "cards": {
            "8": {
                "histogram": {"edges": [0, 1, 2], "before": [1, 2], "after": [0, 0]},
                "examples": [{"fact": 4, "before": [0.0, 2.0, 1.5], "after": [0.0, 0.0, 0.0]}],
            }
        },
        "texts": {"4": {"tokens": [" Where", NASTY, " red"], "answer_from": 2}},
    }
    labels = {"feature": ("7", "8", "9", "10"), "measure": WITH_DONOR}
    return Trace("sae_features", np.array(values), ("feature", "measure"), "see measure", labels, notes | more)


def series(figure: dict, name: str, axis: str = "") -> dict:
    return next(s for s in figure["data"] if s.get("name") == name and s.get("xaxis", "x") == (axis or "x"))


def test_one_model_alone(app, full):
    without = app(full, "sae", run="one")
    assert any("workbench look sae_features" in code.value for code in without.code)
    store(full, "look", {"verb": "look", "checkpoint": "x"}, single())
    at = app(full, "sae", run="one")
    assert not at.exception and not at.error
    assert "1 of 3 features found" in alts(at)[0] and "Features before and after: not measured" in said(at)
    assert at.dataframe[0].value["feature"].tolist() == ["7", "8"]
    assert at.dataframe[1].value["promotes"].tolist()[0] == "<img>"
    assert at.dataframe[1].value["suppresses"].tolist() == ["b", "·c"]
    assert "not the checkpoint of Run A" in said(at) and "neuronpedia" not in said(at)
    at = app(full, "sae", run="one", feature="8", sort="retain")
    assert "only of the features it found" in said(at)
    assert at.dataframe[0].value["feature"].tolist() == ["8", "7"]


def test_a_run_without_the_newer_numbers_says_what_it_lacks(app, full, asked):
    trace = paired()
    keep = [WITH_DONOR.index(name) for name in (*ALONE, "forget_change", "retain_change")]
    lost = ("change", "intervals", "cards", "texts")
    notes = {name: note for name, note in trace.notes.items() if name not in lost}
    labels = {**trace.labels, "measure": tuple(WITH_DONOR[i] for i in keep)}
    store(full, "look", asked, replace(trace, values=trace.values[:, keep], labels=labels, notes=notes))
    at = app(full, "sae", run="one", feature="8")
    assert not at.exception and not at.error
    told = {metric.label: metric.value for metric in at.metric}
    assert told["variance explained: forget"] == "0.9 → 0.5"
    assert (told["killed on forget"], told["silenced on forget"], told["new on forget"]) == ("1", "1", "1")
    assert "feature 7 from 0.1 to 0.5" in alts(at)[1] and "q <" not in alts(at)[1]
    assert "forget, before: 3 of 4 fire" in alts(at)[3] and "retain: 1 of 4 fire" in alts(at)[3]
    assert "Intervals and false-discovery rates of the changes: not measured" in said(at)
    assert "Histogram and texts of feature 8: not measured" in said(at)
    assert "mean activation" not in told and "q" not in at.dataframe[0].value
    store(full, "other", asked | {"against": "0" * 64}, trace)
    assert "not the checkpoint of Run A" in said(app(full, "sae", run="one", sae="other"))
    assert len(app(full, "sae", run="one", sae="nowhere").error) == 1


def test_the_changes_carry_their_intervals_and_q(app, full, asked):
    store(full, "look", asked, paired())
    at = app(full, "sae", run="one")
    assert not at.exception and not at.error
    changes = figures(at)[1]
    sure, unsure = series(changes, "change, q < .05", "x3"), series(changes, "change, q ≥ .05 or not tested", "x3")
    assert sure["y"] == ["feature 7"] and set(unsure["y"]) == {"feature 8", "feature 9", "feature 10"}
    from tests.app.test_pages import drawn

    assert drawn(sure["x"]) == pytest.approx([0.4])
    assert drawn(sure["error_x"]["array"]) == pytest.approx([0.05])
    assert drawn(sure["error_x"]["arrayminus"]) == pytest.approx([0.1])
    means = [
        dict(zip(s["y"], drawn(s["x"]), strict=True)) for s in (series(changes, n, "x2") for n in ("before", "after"))
    ]
    assert [m["feature 9"] for m in means] == [3, 1]
    assert "1 of 4 features that fire in either model changed with q < 0.05" in alts(at)[1]
    assert "10 subjects" in alts(at)[1] and "smallest p that so many subjects can give is 0.00195" in said(at)
    table = at.dataframe[0].value
    assert table["feature"].tolist()[0] == "7" and at.selectbox(key="sort").value == "forget_change"
    assert dict(zip(table["feature"], table["q"], strict=True)) == {"7": 0.008, "8": 1.0, "9": 0.5, "10": 0.5}
    by_q = app(full, "sae", run="one", sort="q").dataframe[0].value["feature"].tolist()
    assert by_q[0] == "7" and by_q[-1] == "8"


def test_one_feature_in_full(app, full, asked):
    store(full, "look", asked, paired())
    at = app(full, "sae", run="one", feature="8")
    assert not at.exception and not at.error
    told = {metric.label: metric.value for metric in at.metric}
    assert told["share of forget tokens"] == "0.3 → 0" and told["mean activation"] == "1 → 0"
    assert "95% interval -0.9 to +0" in said(at) and "q 1, p 1" in said(at)
    assert "before: fires on 3 tokens; after: fires on 0 tokens" in alts(at)[-1]
    assert [code.value for code in at.code if "neuronpedia" in code.value] == ["neuronpedia.org/gemma-2-2b/9-res-16k/8"]
    (texts,) = [one.proto.body for one in at.get("html") if "does not fire" in one.proto.body]
    assert NASTY not in texts and texts.count("&lt;img") >= 4  # its cells, in both rows, and the words for each
    assert texts.index(">before<") < texts.index(">after<") and "text-decoration:underline" in texts
    assert "Text 1" in said(at) and "after, does not fire" in said(at)
    at = app(full, "sae", run="one", feature="9")
    assert "only of the features it found and of those that changed most" in said(at)


def test_every_layer_is_a_row(app, full, asked):
    store(full, "deep", asked, paired("L10.resid_post"))
    alone = app(full, "sae", run="one")
    assert "1 autoencoders: L10.resid_post: 1 killed, 1 silenced, 1 new" in alts(alone)[0]
    assert any("site=L11.resid_post" in code.value for code in alone.code)
    store(full, "low", asked | {"n": 1}, paired("L2.resid_post"))
    store(full, "facts", asked | {"n": 2}, paired("L3.resid_post", facts_digest="others"))
    store(full, "donor", asked | {"n": 3}, paired("L4.resid_post", before={"identity": "another"}))
    at = app(full, "sae", run="one", sae="deep")
    fates = next(s for s in figures(at)[0]["data"] if s["type"] == "heatmap")
    assert fates["y"] == ["L2.resid_post", "L10.resid_post"]  # by layer, and of the same models and facts only
    assert fates["text"][0] == ["1 of 3", "1 of 3", "1 of 3"]
    shapes = figures(at)[0]["layout"]["shapes"]
    assert [(shape["y0"], shape["y1"]) for shape in shapes] == [(0.51, 1.49)]  # the second row is framed
    box = at.selectbox(key="sae")
    assert box.value == "deep" and sorted(option.split(" · ")[0] for option in box.options) == [
        "L10.resid_post",
        "L2.resid_post",
        "L3.resid_post",
        "L4.resid_post",
    ]
    store(full, "low-again", asked | {"n": 4}, paired("L2.resid_post"))
    at = app(full, "sae", run="one", sae="deep")
    fates = next(s for s in figures(at)[0]["data"] if s["type"] == "heatmap")
    assert fates["y"] == ["L2.resid_post", "L2.resid_post (2)", "L10.resid_post"]


def test_an_autoencoder_that_fails_here_is_said_first(app, full, asked):
    store(full, "look", asked, paired())
    at = app(full, "sae", run="one")
    assert not at.warning and any("3 times on forget" in info.value for info in at.info)
    sentence = "on the forget facts the SAE's error is 3 a token here and 1 on b (variance 9): it may not describe"
    store(full, "bad", asked | {"n": 1}, paired(warnings=[sentence]))
    at = app(full, "sae", run="one", sae="bad")
    assert len(at.warning) == 1 and not at.info
    assert "describes this model worse" in at.warning[0].value and "3 a token here" in said(at)
    assert "squared error a token: 1 → 3" in said(at)
    store(full, "good", asked | {"n": 2}, paired(reconstruction_error={"forget": 1.2}))
    at = app(full, "sae", run="one", sae="good")
    assert not at.warning and not at.info
