"""The pages of what is inside: the stored numbers are what is drawn, and a choice leads to its fact, vector or cell."""

import json

import numpy as np
import pytest

from tests.app.conftest import alts, figures, resign, said
from workbench.comparison import Comparison
from workbench.comparison_rows import TensorRow
from workbench.shelf import load_trace
from workbench.store import RunFolder
from workbench.trace import Trace


def held(run, role: str, key: str) -> Trace:
    trace = load_trace(run / "one", role, key)
    return trace.mean("seed") if "seed" in trace.axes else trace


@pytest.mark.parametrize(
    ("page", "key"),
    [("lens", "logit_lens.forget"), ("probes", "linear_probes.forget"), ("depth", "depth_score.forget")],
)
def test_facts_at_a_layer_are_the_stored_ones(app, full, page, key):
    at = app(full, page, run="one", layer="1")
    assert not at.exception and not at.error
    table = at.dataframe[-1].value
    trace = held(full, "checkpoint", key)
    layer = next(i for i, label in enumerate(trace.labels["layer"]) if label.split(".")[0] == "L1")
    row = np.take(trace.values, layer, axis=trace.axis("layer"))
    expected = {label: float(value) for label, value in zip(trace.labels["fact"], row, strict=True)}
    shown = dict(zip(table["fact"], table["checkpoint"], strict=True))
    assert set(table["layer"]) == {"1"}
    assert shown == pytest.approx({fact: expected[fact] for fact in shown}, nan_ok=True) and len(shown) >= 4


@pytest.mark.parametrize("page", ["lens", "probes", "depth"])
def test_a_chosen_fact_has_a_curve_of_its_own(app, full, page):
    without, one = app(full, page, run="one"), app(full, page, run="one", item="0")
    assert len(alts(one)) == len(alts(without)) + 1
    assert sum(alt.startswith("Fact 0 by layer") for alt in alts(one)) == 1
    assert not any(alt.startswith("Fact 0 by layer") for alt in alts(without))


def test_the_fact_that_shows_most_comes_first(app, full):
    table = app(full, "lens", run="one").dataframe[-1].value
    assert table["checkpoint"].is_monotonic_decreasing


def test_a_layer_that_was_not_read_is_refused(app, full):
    assert len(app(full, "lens", run="one", layer="99").error) == 1


def test_selectivity_is_probe_minus_control(app, full):
    at = app(full, "probes", run="one")
    figure = figures(at)[1]
    trace = load_trace(full / "one", "checkpoint", "linear_probes.forget")
    facts = trace.notes.get("n_facts", len(trace.labels["fact"]))
    own = np.take(trace.values, range(facts), axis=trace.axis("fact"))
    order = [trace.axis(name) for name in ("layer", "seed", "fact") if name in trace.axes]
    accuracy = np.nanmean(np.transpose(own, order).reshape(len(trace.labels["layer"]), -1), axis=1)
    expected = accuracy - np.array(trace.notes["controls"]["shuffled"])
    series = next(s for s in figure["data"] if s.get("name") == "checkpoint" and "meta" in s)
    from tests.app.test_pages import drawn

    np.testing.assert_allclose(drawn(series["y"]), expected, atol=1e-6)


def test_concept_vectors_are_compared_with_the_base(app, full):
    at = app(full, "concepts", run="one")
    assert "Value vectors against the base's: checkpoint: mean Jaccard" in alts(at)[0]
    base = load_trace(full / "one", "base", "concept_vectors.forget")
    assert set(at.dataframe[0].value["vector"]) == set(base.labels["site"])
    site = base.labels["site"][-1]
    at = app(full, "concepts", run="one", vector=site)
    ids = list(at.dataframe[1].value["token id before"])
    assert ids == base.notes["top_ids"][site][: len(ids)]
    words = base.notes["vocabulary"]
    assert [w.replace("·", " ") for w in at.dataframe[1].value["token before"]] == [words[str(i)] for i in ids]
    assert "made before runs kept them" not in said(at)


def test_the_trade_off_names_every_audit(app, full):
    at = app(full, "tradeoff", run="one")
    assert set(at.dataframe[0].value["run"]) == {"one", "more/two"}
    assert alts(at)[0].startswith("2 audits, direct against near")
    at = app(full, "tradeoff", run="one", x="paraphrase", y="far")
    assert "paraphrase against far" in alts(at)[0]
    assert len(app(full, "tradeoff", run="one", x="near").error) == 1


def store(full, name: str, question: dict, save) -> None:
    run = RunFolder.claim(full / name, question)
    with run.running(checkpoint={"address": "there"}):
        save(run.path)


def test_weights_of_another_run_on_the_shelf(app, full):
    assert "workbench compare" in at_code(app(full, "weights", run="one"))
    about = {"module": "mlp", "matrix": "up_proj", "expert": None, "shape": "2x2", "entries": 4, "base_norm": 1.0}
    same = {"status": "identical", "entries_changed": 0, "change_norm": 0.0, "relative_change": 0.0}
    other = {"status": "changed", "entries_changed": 4, "change_norm": 0.5, "relative_change": 0.5, "rank": 1}
    other |= {"rank_is_at_least": False, "rank_threshold": 1e-6, "singular_values": [0.5], "top_share": 1.0}
    rows = [TensorRow("a.0", layer=0, **about, **same), TensorRow("a.1", layer=1, **about, **other)]
    roles = json.loads((full / "one" / "manifest.json").read_text())["question"]["roles"]
    question = {"verb": "compare", "base": roles["base"], "checkpoint": roles["checkpoint"]}
    store(full, "cmp-own", question, Comparison.of_rows(("b", "c"), rows).save)
    store(full, "cmp-other", question | {"checkpoint": "0" * 64}, Comparison.of_rows(("b", "d"), rows).save)
    at = app(full, "weights", run="one")
    assert not at.exception and not at.error
    assert at.selectbox(key="diff").value == "cmp-own"
    assert "Largest: 0.5 at layer 1" in alts(at)[0] and not at.info
    assert "L1 mlp up_proj 1 in the first" in alts(at)[2]
    at = app(full, "weights", run="one", stat="rank")
    assert alts(at)[0] == "Rank of the change, layer by matrix: from 1 to 1."
    assert "older version of the workbench made this and took neither" in said(at)
    at = app(full, "weights", run="one", diff="cmp-other", layer="0")
    assert "other weights than those of Run A" in said(at)
    assert "Nothing changed here" in said(at)
    (full / "cmp-own" / "comparison.json").write_text("{}")
    at = app(full, "weights", run="one", diff="cmp-own")
    assert not at.exception and "was changed after the run" in said(at) and alts(at) == []


def at_code(at) -> str:
    return "\n".join(code.value for code in at.code)


def test_experts_and_their_facts(app, full):
    at = app(full, "experts", run="one")
    assert "Experts: not measured" in said(at) and "no mixture of experts" in said(at)
    sites = tuple(f"L{layer}.expert[{i}]" for layer in range(2) for i in range(2))
    facts = ("0: a", "1: b")
    values = np.array([[0, 0], [0, 0], [0.25, 0.75], [0, 0]], np.float32)
    effect = Trace("expert_attribution", values, ("site", "fact"), "logits", {"site": sites, "fact": facts})
    shift = Trace(
        "expert_shift",
        np.array([[[0.1, 0.1], [0.2, 0.2]], [[0.3, 0.3], [0.4, 0.4]]], np.float32),
        ("layer", "measure", "fact"),
        "shift",
        {"layer": ("L0", "L1"), "measure": ("selection", "distribution"), "fact": facts},
        {"model": "m", "donor": "d", "sent": {"model": [[1, 0], [0.5, 0.5]], "donor": [[0.5, 0.5], [0.5, 0.5]]}},
    )

    def save(path):
        effect.save(path / "traces/checkpoint/expert_attribution.forget")
        shift.save(path / "traces/checkpoint/expert_shift.forget")

    store(full, "moe", {"verb": "look", "checkpoint": "x"}, save)
    at = app(full, "experts", run="moe", expert="0")
    assert not at.exception and not at.error
    assert "mean over all that was read. before: highest 0.5" in alts(at)[0] and "after: highest 1" in alts(at)[0]
    assert "highest 0.4" in alts(at)[1]
    assert "highest 0.3" in alts(app(full, "experts", run="moe", measure="selection"))[1]
    assert "highest 0.5 at layer 1" in alts(at)[3]
    maps = [series for series in figures(at)[0]["data"] if series["type"] == "heatmap" and "meta" in series]
    from tests.app.test_pages import drawn

    assert drawn(maps[2]["z"]).tolist() == [[0.5, -0.5], [0, 0]]
    even = {s["name"]: drawn(s["y"]).tolist() for s in figures(at)[2]["data"] if "meta" in s}
    assert even == {"base": [1, 1], "checkpoint": [0, 1]}
    del shift.notes["sent"]
    shift.save(full / "moe/traces/checkpoint/expert_shift.forget")
    resign(full / "moe")
    assert "made before expert shift noted them" in said(app(full, "experts", run="moe"))


def test_three_clicks_from_the_verdict_to_the_fact(app, full):
    at = app(full, run="one")
    links = [link for link in at.get("page_link")]
    told = [link.proto for link in links]
    assert any("fact" in p.label and "layer" in p.label for p in told)
    lens = next(p for p in told if p.label.startswith("Lens"))
    query = dict(pair.split("=") for pair in lens.query_string.lstrip("?").split("&"))
    assert query["run"] == "one" and {"layer", "item"} <= set(query)
    there = app(full, "lens", **query)
    assert not there.error and there.selectbox(key="item").value == query["item"]
    assert alts(there)[-1].startswith(f"Fact {query['item']} by layer")
