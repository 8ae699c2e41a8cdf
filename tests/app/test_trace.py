"""Causal trace: a cell's moves are the stored scores, each copy stands under its fact, older runs say why; overview."""

import numpy as np

from tests.app.conftest import alts, change, figures, resign, said
from workbench.shelf import load_trace
from workbench.store import RunFolder
from workbench.trace import Trace
from workbench.trace_cuts import fact_number

KEY = "causal_trace.forget"
CELL = {"layer": "1", "tok": "last subject"}


def test_the_moves_of_a_cell_and_of_a_fact_are_the_stored_scores(app, full):
    trace = load_trace(full / "one", "base", KEY)
    values = trace.pick("site", "L1.resid_post").pick("role", "last subject").values
    at = int(np.flatnonzero(np.isfinite(values))[0])
    number = fact_number(trace.labels["fact"][at])
    page = app(full, "trace", run="one", item=number, **CELL)
    assert not page.exception and not page.error
    mean, fact = (
        next(a for a in alts(page) if a.startswith(word)) for word in ("Mean over facts at", f"Fact {number} at")
    )
    base = [trace.notes[name][at] for name in ("clean", "corrupted")]
    drawn = next(f for f in figures(page) if f["layout"]["meta"]["alt"] == fact)
    line = next(s for s in drawn["data"] if s.get("name") == "base")
    np.testing.assert_allclose(_numbers(line["y"]), [*base, base[1] + values[at]], atol=1e-6)
    assert "clean → corrupted → with this state put back" in mean
    assert "no noise, so no scale" in said(page) and "Each row restores one layer" in said(page)
    assert f"In the subject's place stood {trace.notes['instead'][at][0]}." in said(page)
    for role in ("base", "checkpoint"):
        change(full / "one", f"traces/{role}/{KEY}.json", lambda words: words["notes"].pop("instead"))
    resign(full / "one")
    assert "Which subject stood in is not noted" in said(app(full, "trace", run="one", item=number, **CELL))


def _numbers(values) -> list[float]:
    from tests.app.test_pages import drawn

    return [float(value) for value in drawn(values)]


def noisy(**more) -> Trace:
    labels = {"site": ("L0.mlp_out", "L1.mlp_out"), "role": ("last subject", "last prompt"), "fact": ("0: a", "1: b")}
    values = np.array([[[0.1, 0.2], [0, 0]], [[0.5, np.nan], [0, 0]]], dtype=np.float32)
    options = {"corruption": "noise", "noise_scale": 3.0, "samples": 2, "seed": 4, "window": 3, "centring": "published"}
    notes = {
        "options": options | {"metric": "probability"},
        "noise": 0.25,
        "clean": [0.9, None],
        "corrupted": [0.1, None],
        "instead": [["noise 1", "noise 2"], []],
        "sample_corrupted": [[0.05, 0.15], []],
        "sample_effects": [[[[0.0, 0.0], [0.4, 0.0]], [[0.2, 0.0], [0.6, 0.0]]], []],
        "why_not_traced": {"1: b": "the model does not give the answer"},
    }
    return Trace("causal_trace", values, ("site", "role", "fact"), "probability", labels, notes | more)


def look(full, trace: Trace) -> None:
    run = RunFolder.claim(full / "look", {"verb": "look", "checkpoint": "x"})
    with run.running(checkpoint={"address": "there"}):
        trace.save(run.path / "traces" / "checkpoint" / KEY)


def test_each_draw_of_noise_and_its_size_and_the_window(app, full):
    look(full, noisy())
    at = app(full, "trace", run="look", kind="mlp_out", item="0", **CELL)
    assert not at.exception and not at.error
    table = next(frame.value for frame in at.dataframe if "in the subject's place" in frame.value)
    assert table["in the subject's place"].tolist() == ["noise 1", "noise 2"]
    np.testing.assert_allclose(table["restored"], [0.45, 0.75])
    words = said(at)
    assert "measured in each model (checkpoint 0.25), 2 copies of each fact, seed 4" in words
    assert "a window of 3 layers about it" in words
    untraced = app(full, "trace", run="look", kind="mlp_out", item="1", **CELL)
    assert "it was not traced: the model does not give the answer" in said(untraced).replace("It", "it")


def test_a_trace_of_before_says_that_only_the_mean_was_kept(app, full):
    old = noisy()
    for name in ("noise", "instead", "sample_corrupted", "sample_effects"):
        del old.notes[name]
    look(full, old)
    at = app(full, "trace", run="look", kind="mlp_out", item="0", **CELL)
    assert not at.exception
    assert "kept the mean" in said(at) and "not noted by this run" in said(at)
    assert not any("in the subject's place" in frame.value for frame in at.dataframe)


def test_the_overviews_small_curves_are_the_claims_own(app, full):
    table = app(full, run="one").dataframe[0].value.set_index("claim")
    lens = load_trace(full / "one", "checkpoint", "logit_lens.forget")
    np.testing.assert_allclose(list(table.loc["lens", "curve"]), lens.mean("fact").values, atol=1e-6)
    probes = load_trace(full / "one", "checkpoint", "linear_probes.forget")
    probes = probes.mean("seed") if "seed" in probes.axes else probes
    np.testing.assert_allclose(
        list(table.loc["probe", "curve"]), np.nanmean(probes.values[:, : probes.notes["n_facts"]], axis=1), atol=1e-6
    )
    assert all(table.loc[claim, "curve"] is None for claim in ("direct", "near", "membership"))
