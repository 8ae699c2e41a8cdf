"""Knowledge-encoding layers: planted drops are counted, erased and left add up, and what lacks is said."""

import numpy as np
import pytest

from workbench.errors import BadInput
from workbench.figures_click import clicked_id, selectable
from workbench.figures_depth import encoded, encoding_bars
from workbench.figures_style import alt_text, table_of
from workbench.trace import Trace

FIRST = np.array([[0.0, 0.08, 0.2], [1.0, 2.0, np.nan], [4.0, 0.1, 6.0]])
"""Nats an answer; the answers have 1, 2 and 3 tokens, so 0.08 and 0.1 of the second lie below the threshold."""


def drops(values, **notes) -> Trace:
    notes = {"options": {"threshold": 0.05, "value": "drop"}, "answer_tokens": [1, 2, 3], "identity": "b"} | notes
    labels = {"layer": ("0", "1", "2"), "fact": ("0: a", "1: b", "2: c")}
    return Trace("depth_score", np.array(values, dtype=float), ("layer", "fact"), "nats", labels, notes)


def test_layers_are_counted_by_the_threshold_a_token_and_erased_as_the_paper_does():
    found = encoded(drops(FIRST * [[1], [0.5], [-1]]), drops(FIRST))
    assert found.carried.tolist() == [1, 2, 2] and found.facts == 3
    np.testing.assert_allclose(found.gone, [1, 0.5, 0])
    more = encoded(drops(FIRST * 3), drops(FIRST))
    np.testing.assert_allclose(more.gone, [1, 1, 1])  # no more than all
    nothing = encoded(drops(FIRST), drops(FIRST * 0))
    assert nothing.carried.tolist() == [0, 0, 0] and np.isnan(nothing.gone).all()


def test_a_bar_is_what_is_erased_and_what_is_left():
    found = encoded(drops(FIRST * [[1], [0.5], [-1]]), drops(FIRST))
    table = table_of(encoding_bars({"checkpoint": found}, "Layers", "1"))
    heights = {
        part: table[table["series"] == part]["share of facts"].to_numpy() for part in ("erased", "still readable")
    }
    np.testing.assert_allclose(heights["erased"], [1 / 3, 1 / 3, 0])
    np.testing.assert_allclose(heights["still readable"], [0, 1 / 3, 2 / 3])
    figure = selectable(encoding_bars({"checkpoint": found, "run B": found}, "Layers", "1"))
    assert len(figure.data) == 4
    assert clicked_id(figure, {"curve_number": 3, "point_index": 2}) == "2"
    assert list(figure.data[0].marker.line.width) == [1, 3, 1]
    assert "layer 1 carries most (2 of 3 facts, 0.5 of them erased)" in alt_text(figure)
    assert "least is erased at layer 2 (0)" in alt_text(figure)
    none = encoded(drops(FIRST), drops(FIRST * 0))
    assert "no layer carries any of 3 facts" in alt_text(encoding_bars({"checkpoint": none}, "Layers"))


def test_the_first_stage_may_stand_in_the_notes():
    kept = drops(FIRST / 2, first_drop=[[None if np.isnan(x) else x for x in row] for row in FIRST.tolist()])
    np.testing.assert_allclose(encoded(kept, None).gone, [0.5, 0.5, 0.5])
    with pytest.raises(BadInput, match="retrained without the concept"):
        encoded(drops(FIRST, first_drop=[[None] * 3] * 3), None)


@pytest.mark.parametrize(
    ("trace", "reference", "why"),
    [
        (drops(FIRST), drops(FIRST, identity="c"), "another base"),
        (drops(FIRST), drops(FIRST, facts_digest="x"), "another base"),
        (drops(FIRST, options={"value": "erased", "threshold": 0.05}), drops(FIRST), "no drops"),
        (drops(FIRST, answer_tokens=[1]), drops(FIRST), "do not fit"),
        (drops(FIRST, options={}), drops(FIRST), "do not fit"),
        (drops(FIRST), None, "do not fit"),
    ],
)
def test_what_cannot_be_counted_is_refused(trace, reference, why):
    with pytest.raises(BadInput, match=why):
        encoded(trace, reference)
    with pytest.raises(BadInput, match="no model"):
        encoding_bars({}, "t")
