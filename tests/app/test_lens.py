"""Ranks and words on the Lens page: the stored numbers are drawn, a click is a box, and what lacks is a card."""

import html

import numpy as np

from tests.app.conftest import alts, change, figures, resign, said
from workbench.figures_ranks import NEVER, among
from workbench.shelf import load_trace
from workbench.trace import Trace
from workbench.trace_cuts import fact_number, layer_name

LENS, WORDS = "logit_lens.forget", "lens_words.forget"


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
    assert not any(s.get("name") == "never taught" for s in figure["data"])  # its fact 1 is another one
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


def test_cells_may_be_coloured_by_entropy_and_by_the_way_from_the_base(app, full):
    from tests.app.test_pages import drawn

    words = {role: load_trace(full / "one", role, WORDS) for role in ("base", "checkpoint")}
    length = len(words["base"].notes["tokens"][0])
    for colour, roles in (("entropy", ["base", "checkpoint"]), ("kl", ["checkpoint"])):
        at = app(full, "lens", run="one", item="0", colour=colour)
        assert not at.exception and not at.error
        figure = titled(at, "Lens over fact 0")
        panels = {s["meta"]["panel"]: s for s in figure["data"] if s["type"] == "heatmap"}
        assert [p for p in panels if p in words] == roles
        for role in roles:
            stored = words[role].pick("measure", colour).values[0, :, :length]
            assert np.isfinite(stored).all() and stored.max() > 0
            np.testing.assert_allclose(drawn(panels[role]["z"]), stored, rtol=1e-5)


def test_a_chosen_cell_lists_ten_words_as_pointing_at_it_does(app, full):
    at = app(full, "lens", run="one", item="0", layer="1", word="2")
    base = load_trace(full / "one", "base", WORDS)
    row = base.labels["layer"].index("L1")
    table = at.dataframe[-2].value
    cell = {name: base.pick("measure", name).values[0, row, 2] for name in base.labels["measure"]}
    shares = [cell["likeliest"], *(cell[f"likeliest {i}"] for i in range(2, 11))]
    np.testing.assert_allclose(table["base: probability"], shares)
    assert table["place"].tolist() == list(range(1, 11)) and table["base: probability"].is_monotonic_decreasing
    marks = next(s for s in titled(at, "Lens over fact 0")["data"] if s.get("meta") == ["cell", "base"])
    place = next(i for i, y in enumerate(marks["y"]) if y == "1" and marks["x"][i].startswith("2 "))
    lines = html.unescape(marks["hovertext"][place]).split("<br>")
    assert [line.rsplit("  ", 1)[0][:13] for line in lines] == [word[:13] for word in table["base: word"]]


def test_words_of_before_keep_their_map_and_say_what_lacks(app, full):
    for role in ("base", "checkpoint"):
        new = load_trace(full / "one", role, WORDS)
        old = new.labels["measure"][:4]
        labels = {**new.labels, "measure": old}
        Trace(new.name, new.values[:4], new.axes, new.units, labels, new.notes).save(
            full / "one" / "traces" / role / WORDS
        )
    resign(full / "one")
    at = app(full, "lens", run="one", item="0", layer="1", word="2")
    assert not at.exception and not at.error
    assert any(alt.startswith("Lens over fact 0") for alt in alts(at)) and "first word of each cell alone" in said(at)
    for colour in ("entropy", "kl"):
        at = app(full, "lens", run="one", item="0", colour=colour)
        assert not at.exception and not at.error
        assert "before the lens read it" in said(at) and not any(alt.startswith("Lens over") for alt in alts(at))
        assert any(code.value.endswith("-again") for code in at.code)
