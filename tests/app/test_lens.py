"""Ranks and words on the Lens page: the stored numbers are drawn, a click is a box, and what lacks is a card."""

import numpy as np

from tests.app.conftest import alts, change, figures, resign, said
from workbench.figures_ranks import NEVER, among
from workbench.shelf import load_trace
from workbench.trace_cuts import fact_number, layer_name

LENS = "logit_lens.forget"


def titled(at, words: str) -> dict:
    return next(f for f in figures(at) if words in str(f["layout"]["title"]))


def test_the_rank_curve_is_the_median_of_the_stored_ranks(app, full):
    from tests.app.test_pages import drawn

    at = app(full, "lens", run="one")
    assert not at.exception and not at.error
    figure = titled(at, "Rank of the answer by layer")
    for role in ("base", "checkpoint"):
        ranks = np.array(load_trace(full / "one", role, LENS).notes["rank"])
        series = next(s for s in figure["data"] if s.get("name") == role and "meta" in s)
        np.testing.assert_allclose(drawn(series["y"]), np.median(ranks, axis=1))
    assert any(s.get("name") == "never taught" for s in figure["data"])
    assert figure["layout"]["yaxis"]["type"] == "log"


def test_where_a_fact_enters_is_drawn_and_k_is_chosen(app, full):
    for k in (1, 10):
        figure = titled(app(full, "lens", run="one", topk=str(k)), f"{among(k)},")
        marks = next(s for s in figure["data"] if s.get("ids"))
        stored = {role: load_trace(full / "one", role, LENS) for role in ("base", "checkpoint")}
        for number, cell in zip(marks["ids"], marks["customdata"], strict=True):
            for trace, shown in zip(stored.values(), cell, strict=False):
                fact = next(i for i, text in enumerate(trace.labels["fact"]) if fact_number(text) == number)
                inside = np.array(trace.notes["rank"])[:, fact] <= k
                first = layer_name(trace.labels["layer"][int(inside.argmax())]) if inside.any() else NEVER
                assert shown == first
        assert len(marks["ids"]) == len(stored["base"].labels["fact"])
    assert len(app(full, "lens", run="one", topk="3").error) == 1


def test_a_chosen_fact_is_marked_and_has_its_own_ranks(app, full):
    at = app(full, "lens", run="one", item="1")
    ranks = np.array(load_trace(full / "one", "checkpoint", LENS).notes["rank"])
    figure = titled(at, "Rank of the answer by layer, fact 1")
    from tests.app.test_pages import drawn

    series = next(s for s in figure["data"] if s.get("name") == "checkpoint" and "meta" in s)
    np.testing.assert_allclose(drawn(series["y"]), ranks[:, 1])
    scatter = titled(at, "First layer")
    ring = next(s for s in scatter["data"] if s.get("marker", {}).get("symbol") == "circle-open")
    marks = next(s for s in scatter["data"] if s.get("ids"))
    at_one = marks["ids"].index("1")
    assert drawn(ring["x"])[0] == drawn(marks["x"])[at_one] and drawn(ring["y"])[0] == drawn(marks["y"])[at_one]


def test_a_run_of_before_has_a_card_and_one_with_other_ranks_too(app, full):
    for role in ("base", "checkpoint"):
        change(full / "one", f"traces/{role}/{LENS}.json", lambda words: words["notes"].pop("rank"))
    for key in (full / "one" / "traces" / "checkpoint").glob("logit_lens.never_taught.json"):
        change(full / "one", f"traces/checkpoint/{key.name}", lambda words: words["notes"].pop("rank"))
    resign(full / "one")
    at = app(full, "lens", run="one")
    assert not at.exception and not at.error
    assert "kept no ranks" in said(at) and not any("Rank of the answer" in alt for alt in alts(at))
    assert any(code.value.startswith("workbench audit ") and code.value.endswith("-again") for code in at.code)
    change(full / "one", f"traces/checkpoint/{LENS}.json", lambda words: words["notes"].update(rank=[[1.0]]))
    resign(full / "one")
    assert "do not fit its numbers" in said(app(full, "lens", run="one"))
