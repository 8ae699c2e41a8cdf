"""Ranks inside: planted ranks are what is drawn, `never` is a place, and a click leads back to the fact."""

import numpy as np
import pytest

from workbench.errors import BadInput
from workbench.figures_click import clicked_id, selectable
from workbench.figures_ranks import NEVER, entered, entry_scatter, rank_curves, ranks_of
from workbench.figures_style import alt_text, table_of
from workbench.trace import Trace

LAYERS = ("embed", "0", "1")
KNOWN = ((90, 500, 9, 700), (3, 400, 8, 700), (1, 1, 7, 700))
"""Facts that arrive: the first two at the last layer (the first among five before), the third among ten, one never."""


def lens(ranks=KNOWN, **notes) -> Trace:
    facts = tuple(f"{i}: <i>p{i}</i>" for i in range(len(ranks[0])))
    values = np.zeros((len(ranks), len(facts)), dtype=np.float32)
    notes = {"options": {"statistic": "choice"}, "rank": [list(row) for row in ranks]} | notes
    return Trace(
        "logit_lens", values, ("layer", "fact"), "share", {"layer": LAYERS[: len(ranks)], "fact": facts}, notes
    )


def test_ranks_are_those_beside_the_reading_or_the_reading_itself():
    np.testing.assert_array_equal(ranks_of(lens()).values, KNOWN)
    assert ranks_of(lens(rank=None)) is None
    own = lens(options={"statistic": "rank"}, rank=None)
    assert ranks_of(own) is own
    for broken in ([[1, 2]], "words", [[0] * 4] * 3, [[1, None, 1, 1]] * 3, [[1], [1, 2]]):
        with pytest.raises(BadInput, match="do not fit"):
            ranks_of(lens(rank=broken))


def test_an_answer_enters_at_the_first_layer_among_k():
    ranks = ranks_of(lens())
    assert list(entered(ranks, 1).values()) == ["1", "1", NEVER, NEVER]
    assert list(entered(ranks, 5).values()) == ["0", "1", NEVER, NEVER]
    assert list(entered(ranks, 10).values()) == ["0", "1", "embed", NEVER]
    leaves = ranks_of(lens(((7,), (1,), (9,))))
    assert list(entered(leaves, 1).values()) == ["0"]


def test_the_curve_is_median_and_quartiles_on_a_logarithmic_axis():
    other = ranks_of(lens(((800,) * 4, (800,) * 4, (800,) * 4)))
    figure = rank_curves({"base": ranks_of(lens()), "checkpoint": other}, "Rank", 5)
    table = table_of(figure)
    base = table[table["series"] == "base"]
    np.testing.assert_allclose(base["rank"], np.median(KNOWN, axis=1))
    np.testing.assert_allclose(base["lower quartile"], np.percentile(KNOWN, 25, axis=1))
    np.testing.assert_allclose(base["upper quartile"], np.percentile(KNOWN, 75, axis=1))
    axis = figure.layout.yaxis
    assert axis.type == "log" and axis.range[0] > np.log10(800) and axis.range[1] < 0  # 1 is on top
    assert "checkpoint best 800" in alt_text(figure) and len(table) == 6
    one = rank_curves({"base": ranks_of(lens()).pick("fact", "1: <i>p1</i>")}, "Rank")
    assert table_of(one)["rank"].tolist() == [500, 400, 1] and "one fact" in alt_text(one)


def test_every_fact_lies_in_the_square_of_its_layers_and_nowhere_twice():
    many = ((50,) * 40, (1,) * 40, (1,) * 40)
    gone = ((50,) * 40, (50,) * 40, (1,) * 3 + (50,) * 37)
    figure = entry_scatter({"base": ranks_of(lens(many)), "checkpoint": ranks_of(lens(gone))}, 1, "Entry", "7")
    marks = next(s for s in figure.data if s.ids is not None)
    places = [*LAYERS, NEVER]
    for x, y, cell in zip(marks.x, marks.y, marks.customdata, strict=True):
        assert (places[round(x)], places[round(y)]) == (cell[0], cell[1])
        assert cell[0] == "0" and cell[1] == (NEVER if cell[3] == 37 else "1")
    assert len(set(zip(marks.x, marks.y, strict=True))) == 40
    ring = next(s for s in figure.data if s.marker.symbol == "circle-open")
    assert (ring.x[0], ring.y[0]) == (marks.x[7], marks.y[7])
    assert "of 40 facts that enter before 37 never any more, 3 later" in alt_text(figure)
    table = table_of(figure)
    assert table["layer after"].value_counts().to_dict() == {NEVER: 37, "1": 3}
    assert "<i>" not in str(marks.customdata)


def test_the_same_model_lies_on_the_line_and_a_fact_may_be_new():
    figure = entry_scatter({"base": ranks_of(lens()), "checkpoint": ranks_of(lens())}, 10, "Entry")
    assert "of 3 facts that enter before 3 at the same layer." in alt_text(figure)
    new = ranks_of(lens(((1,) * 4,) * 3))
    assert "1 that did not enter do after" in alt_text(entry_scatter({"base": ranks_of(lens()), "new": new}, 10, "E"))
    assert "2 earlier" in alt_text(entry_scatter({"base": ranks_of(lens()), "new": new}, 10, "E"))


def test_a_click_leads_to_the_fact():
    drawn = selectable(entry_scatter({"base": ranks_of(lens()), "checkpoint": ranks_of(lens())}, 1, "Entry"))
    number = next(i for i, s in enumerate(drawn.data) if s.ids is not None)
    assert [clicked_id(drawn, {"curve_number": number, "point_index": i}) for i in range(5)] == [
        "0",
        "1",
        "2",
        "3",
        None,
    ]
    for point in ({"curve_number": 0, "point_index": 0}, {}, {"curve_number": 99, "point_index": 0}):
        assert clicked_id(drawn, point) is None
    assert drawn.data[number].unselected.marker.opacity == drawn.data[number].marker.opacity


def test_what_cannot_be_set_against_each_other_is_refused():
    base = ranks_of(lens())
    with pytest.raises(BadInput, match="Two models"):
        entry_scatter({"base": base}, 1, "t")
    with pytest.raises(BadInput, match="same layers"):
        entry_scatter({"base": base, "other": ranks_of(lens(KNOWN[:2]))}, 1, "t")
    with pytest.raises(BadInput, match="no ranks"):
        rank_curves({}, "t")
