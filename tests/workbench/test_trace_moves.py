"""The moves of a cell are the stored scores; each copy is its own; the bracket spans the subject's tokens only."""

import numpy as np
import pytest

from workbench.errors import BadInput
from workbench.figures import alt_text, compare_maps, map_figure, table_of
from workbench.figures_moves import moves_figure
from workbench.figures_subject import subject_span
from workbench.trace import Trace
from workbench.trace_moves import moves_of, samples_of

ROLES = ("first subject", "middle subject", "last subject", "following", "last prompt")
SITES = ("L0.resid_post", "L1.resid_post")
FACTS = ("0: a", "1: b")


def traced(**more) -> Trace:
    """Effect .5 of fact 0 at layer 1, last subject; fact 1 was not traced."""
    values = np.zeros((2, 5, 2))
    values[1, 2, 0], values[:, :, 1] = 0.5, np.nan
    notes = {"clean": [0.9, None], "corrupted": [0.1, None], "subjects": ["a", "b"], "options": {"metric": "logprob"}}
    return Trace("causal_trace", values, ("site", "role", "fact"), "nats", dict(zip(("site", "role", "fact"), (
        SITES, ROLES, FACTS), strict=True)), notes | more)  # fmt: skip


def cell(trace: Trace) -> Trace:
    return trace.pick("site", SITES[1]).pick("role", "last subject")


def test_the_moves_are_the_stored_scores() -> None:
    moved = moves_of(cell(traced()))
    assert moved is not None and moved.units == "nats"
    np.testing.assert_allclose(moved.values[:, 0], [0.9, 0.1, 0.6])
    assert np.isnan(moved.values[:, 1]).all()
    assert moves_of(cell(traced()), "1: b") is None and moves_of(cell(traced(clean=None))) is None
    one = moves_of(cell(traced()), "0: a")
    assert one is not None and one.labels["fact"] == ("0: a",) and one.notes["subjects"] == ["a"]


def test_normalised_effects_are_brought_back_to_scores() -> None:
    options = {"metric": "probability", "normalised": True}
    moved = moves_of(cell(traced(options=options, mean_total_effect=0.8)))
    assert moved is not None and moved.units == "probability"
    assert moved.values[2, 0] == pytest.approx(0.1 + 0.5 * 0.8)


def copies() -> dict:
    effects = [[[0.0] * 5, [0.0, 0.0, 0.4, None, 0.0]], [[0.0] * 5, [0.0, 0.0, 0.6, None, 0.0]]]
    return {
        "instead": [["Ada", "Bea"], []],
        "sample_corrupted": [[0.05, 0.15], []],
        "sample_effects": [effects, []],
    }


def test_every_copy_with_what_stood_in() -> None:
    table = samples_of(traced(**copies()), (SITES[1], "last subject"), "0: a")
    assert table is not None and table.iloc[:, 0].tolist() == ["Ada", "Bea"]
    np.testing.assert_allclose(table["restored"], [0.45, 0.75])
    unread = samples_of(traced(**copies()), (SITES[1], "following"), "0: a")
    assert unread is not None and unread["effect"].isna().all()
    assert samples_of(traced(), (SITES[1], "last subject"), "0: a") is None
    assert samples_of(traced(**copies()), (SITES[1], "last subject"), "7: x") is None


def test_the_picture_goes_from_clean_to_restored() -> None:
    table = samples_of(traced(**copies()), (SITES[1], "last subject"), "0: a")
    moved = moves_of(cell(traced()), "0: a")
    figure = moves_figure({"base": moved}, "here", {"base": table})
    assert "base 0.9 → 0.1 → 0.6 (1 fact)" in alt_text(figure)
    assert list(figure.layout.xaxis.categoryarray) == ["clean", "corrupted", "restored"]
    assert len(figure.data) == 3 and len(table_of(figure)) == 3  # two thin lines, which the table of copies holds
    assert "Ada" in figure.data[0].hovertemplate and list(figure.data[0].y) == pytest.approx([0.05, 0.45])
    with pytest.raises(BadInput, match="no moves"):
        moves_figure({}, "here")


@pytest.mark.parametrize(
    ("columns", "span"),
    [(ROLES, (0, 2)), (("0", "1"), None), (("a", "last subject"), (1, 1)), (("x subject", "y", "z subject"), None)],
)
def test_the_subject_is_told_by_the_labels(columns, span) -> None:
    assert subject_span(columns) == span


def test_every_panel_of_a_map_bears_the_bracket_and_other_maps_none() -> None:
    one = traced()
    figure = compare_maps(one, one, one, "t", greyed=False)
    assert [shape.path.split()[1] for shape in figure.layout.shapes] == ["-0.45"] * 4
    assert all(shape.path.split()[7] == "2.45" for shape in figure.layout.shapes)
    assert len({(shape.xref, shape.yref) for shape in figure.layout.shapes}) == 4
    assert [a.text for a in figure.layout.annotations].count("subject") == 4
    assert "The bracket marks the subject's tokens: first subject to last subject." in alt_text(figure)
    labels = {"site": SITES, "role": ("1", "2", "3", "4", "5"), "fact": FACTS}
    plain = map_figure(Trace("t", one.values, one.axes, one.units, labels))
    assert not plain.layout.shapes and "bracket" not in alt_text(plain)
    assert figure.layout.annotations[0].yshift > 0 and not plain.layout.annotations[0].yshift
