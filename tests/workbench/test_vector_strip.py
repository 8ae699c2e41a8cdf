"""Strips cut from hand-made traces, and what is drawn of them."""

import numpy as np
import pytest

from tests.workbench.test_vector_moves import AFTER, BASE, SITES, snapshot
from workbench.errors import BadInput
from workbench.figures import figure_of
from workbench.figures_click import CELLS
from workbench.figures_strip import DECADES, Marked, move_strips
from workbench.figures_style import alt_text, table_of
from workbench.figures_vectors import undirected, vector_scatter
from workbench.trace import Trace
from workbench.vector_moves import lost, moves
from workbench.vector_strip import EVERY, ROWS, experts_of, is_vector, strip_of, told, value_of


def moving(values, sites=None, **notes) -> Trace:
    values = np.array(values, np.float32)
    sites = sites or [f"L{i}.mlp_act" for i in range(len(values))]
    labels = {"site": tuple(sites), "neuron": tuple(map(str, range(values.shape[1])))}
    widths = {site: int(np.isfinite(row).sum()) for site, row in zip(sites, values, strict=True)}
    return Trace("moved_vectors", values, ("site", "neuron"), "lengths", labels, {"widths": widths} | notes)


ONE = moving([[0, 0.1, 0, 0, 0.3, 0, 0], [0, 0, 0, 2.0, 0, 0.5, 0.4]])


def test_a_column_is_its_furthest_and_names_it():
    strip = strip_of(ONE, columns=3)
    assert strip.width == 3 and strip.starts == (0, 3, 6) and strip.rows == ("0", "1")
    np.testing.assert_allclose(strip.values, [[0.1, 0.3, 0], [0, 2, 0.4]], rtol=1e-6)
    assert strip.vector_at(0, 1) == "L0.mlp_act[4]" and strip.vector_at(1, 1) == "L1.mlp_act[3]"
    assert strip.cell_of("L1.mlp_act[5]") == (1, 1) and strip.cell_of("L2.mlp_act[0]") is None
    assert strip.furthest(2) == ["L1.mlp_act[3]", "L1.mlp_act[6]"] and strip.furthest(9, "0")[0] == "L0.mlp_act[4]"
    assert len(strip.furthest(99)) == 4  # cells in which nothing moved are not offered


def test_what_fits_is_not_binned():
    strip = strip_of(ONE)
    assert strip.width == 1 and (strip.values == ONE.values).all() and (strip.neuron == np.arange(7)).all()


def test_a_narrower_mlp_ends_and_a_vector_without_a_number_is_no_zero():
    trace = moving([[1, np.nan, np.nan], [0, 0.5, np.nan]], from_zero={"L1.mlp_act": [2]})
    assert np.isnan(strip_of(trace).values).sum() == 3
    assert value_of(trace, "L0.mlp_act[1]") is None and value_of(trace, "L1.mlp_act[1]") == 0.5
    assert "2 of 3 vectors moved" in told(trace) and "1 that were zero before" in told(trace)


def test_which_texts_are_vectors_of_the_model():
    allowed = [t for t in ("L0.mlp_act[6]", "L0.mlp_act[7]", "L0.mlp_act", "L2.mlp_act[0]", "x") if is_vector(ONE, t)]
    assert allowed == ["L0.mlp_act[6]"]


def test_few_experts_have_rows_and_many_share_their_layers():
    few = moving(np.eye(4), [f"L{layer}.e{e}.mlp_act" for layer in range(2) for e in range(2)])
    assert strip_of(few).rows == ("0.e0", "0.e1", "1.e0", "1.e1") and experts_of(few) == []
    values = np.zeros((ROWS + 2, 3))
    values[5, 1], values[6, 1] = 0.25, 0.125  # expert 2 of layers 1 and 0 of layer 2
    many = moving(values, [f"L{i // 3}.e{i % 3}.mlp_act" for i in range(ROWS + 2)])
    strip = strip_of(many)
    assert len(strip.rows) == (ROWS + 2) // 3 and strip.pooled and experts_of(many) == ["0", "1", "2"]
    assert strip.furthest(2) == ["L1.e2.mlp_act[1]", "L2.e0.mlp_act[1]"]
    binned = strip_of(many, columns=2)  # experts pooled and neurons binned at once
    assert binned.width == 2 and binned.furthest(2) == strip.furthest(2)
    one = strip_of(many, "0")
    assert not one.pooled and one.furthest(9) == ["L2.e0.mlp_act[1]"] and one.cell_of("L1.e2.mlp_act[1]") is None
    with pytest.raises(BadInput, match="No layer"):
        strip_of(many, "7")


def cells_of(figure) -> list:
    return [series for series in figure.data if isinstance(series.meta, tuple) and series.meta[0] == "cell"]


def test_the_picture_holds_every_cell_and_the_scale_is_one():
    reference = moving(np.full((2, 7), 1.4))
    strips = {"checkpoint": strip_of(ONE), "reference": strip_of(reference)}
    figure = move_strips(strips, Marked("L1.mlp_act[3]", ["L0.mlp_act[4]"]), ["checkpoint: said"])
    table = table_of(figure)
    for role, trace in (("checkpoint", ONE), ("reference", reference)):
        rows = table[table["panel"] == role]
        np.testing.assert_allclose(rows["moved"], trace.values.reshape(-1), rtol=1e-6)
    drawn = [s for s in figure.data if s.type == "heatmap" and s.meta]
    assert {s.coloraxis for s in drawn} == {"coloraxis"}
    z = np.array(drawn[0].z, float)
    np.testing.assert_allclose(10 ** z[np.isfinite(z)], ONE.values[ONE.values > 0], rtol=1e-5)
    assert np.isnan(z).sum() == (ONE.values == 0).sum()  # what did not move has the grey of its own layer
    assert "checkpoint: said" in alt_text(figure)
    frames = [(s.y[0], s.x[0]) for s in figure.data if s.meta == ("frame",)]
    found = [(s.y[0], s.x[0]) for s in figure.data if s.meta == ("found",)]
    assert frames == [("1", 3)] * 2 and found == [("0", 4)] * 2


def test_a_mark_that_takes_clicks_names_the_vector_of_its_cell():
    figure = move_strips({"checkpoint": strip_of(ONE)})
    (cells,) = cells_of(figure)
    for row, neuron, (vector, value) in zip(cells.y, cells.x, cells.customdata, strict=True):
        assert vector == f"L{row}.mlp_act[{neuron}]" and float(value) == pytest.approx(value_of(ONE, vector))


def test_where_cells_outnumber_marks_one_stands_for_the_furthest_of_its_neighbours():
    values = np.zeros((20, 512))
    values[7, 300], values[7, 301] = 0.5, 0.25
    figure = move_strips({role: strip_of(moving(values)) for role in ("checkpoint", "reference")})
    every = cells_of(figure)
    assert sum(len(cells.x) for cells in every) <= CELLS and len(every) == 2
    named = [vector for vector, value in every[0].customdata if float(value) > 0]
    assert named == ["L7.mlp_act[300]"]


def test_a_scale_spans_few_powers_and_nothing_moved_is_drawn_and_said():
    strip = strip_of(moving([[1e-9, 1.0]]))
    axis = move_strips({"checkpoint": strip}).layout.coloraxis
    assert axis.cmin == pytest.approx(-DECADES) and axis.cmax == pytest.approx(0)
    cut = move_strips({"checkpoint": strip_of(moving([[0.0, 1.0], [1.0, 0.0]]))}).layout.coloraxis
    assert cut.cmax == 0 and cut.cmin == -1  # vectors that were all zeroed stand at the bright end
    still = moving(np.zeros((2, 3)))
    figure = figure_of(still)
    assert "none of 6 vectors moved" in alt_text(figure)
    assert (np.array(figure.data[0].z) == 1).all() and np.isnan(np.array(figure.data[1].z, float)).all()
    assert strip_of(still).furthest(5, EVERY) == []


def test_random_vectors_are_marks_of_their_own_and_a_zeroed_one_is_counted():
    random = moves(BASE, AFTER, 4)
    gone = moves(BASE, snapshot([[0, 0], [0, 2]], [[1, 2, 3, 4], [5, 6, 7, 8]]), 4)
    figure = vector_scatter({"checkpoint": gone}, 4, {"checkpoint": random}, SITES[1])
    table = table_of(figure).set_index("series")
    assert list(table.loc["checkpoint, random", "cosine"]) == list(random["cosine"])
    assert "checkpoint, random: mean Jaccard" in alt_text(figure)
    rings = [(s.x[0], s.y[0]) for s in figure.data if s.meta == ("frame",)]
    assert rings == [(1, 1), (1, 1)]
    assert "1 of checkpoint" in undirected({"checkpoint": gone}) and undirected({"checkpoint": random}) == ""
    assert lost(BASE, AFTER, SITES[0], 4) == 2 and lost(BASE, BASE, SITES[0], 4) == 0
