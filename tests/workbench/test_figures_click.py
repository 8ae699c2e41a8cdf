"""Maps whose cells can be clicked: every mark tells its cell, and nothing drawn changes."""

import numpy as np
import pytest

from workbench.figures_click import CELLS, CellAt, clickable, clicked, panels_of
from workbench.figures_items import QUADRANTS, discordance, quadrants_of
from workbench.figures_maps import compare_maps
from workbench.figures_style import alt_text, rows_of, table_of
from workbench.trace import Trace
from workbench.trace_cuts import by_layer, fact_number, layers_of, one_fact, only_part, parts_of


def trace(seed: int = 0, layers: int = 3, tokens: int = 4, facts: int = 5) -> Trace:
    sites = tuple(f"L{i}.{part}" for part in ("resid_post", "mlp_out") for i in range(layers))
    values = np.random.default_rng(seed).normal(size=(len(sites), tokens, facts))
    labels = {"site": sites, "role": tuple(f"token {i}" for i in range(tokens))}
    return Trace(
        "causal_trace",
        values,
        ("site", "role", "fact"),
        "nats",
        labels | {"fact": tuple(f"{i}: f" for i in range(facts))},
    )


def marks(figure) -> list[int]:
    return [
        i for i, series in enumerate(figure.data) if isinstance(series.meta, tuple | list) and series.meta[0] == "cell"
    ]


def test_every_mark_tells_the_cell_it_lies_on():
    figure = clickable(compare_maps(only_part(trace(), "mlp_out"), only_part(trace(1), "mlp_out")))
    assert len(marks(figure)) == len(panels_of(figure)) == 3
    found = [clicked(figure, {"curve_number": marks(figure)[0], "point_index": i}) for i in range(12)]
    assert found == [CellAt(str(row), f"token {column}") for row in range(3) for column in range(4)]


def test_a_cell_nothing_was_read_at_is_clickable_too_and_says_so():
    one, other = (only_part(trace(seed), "mlp_out") for seed in (0, 1))
    one.values[0, 1, :] = np.nan
    figure = clickable(compare_maps(one, other))
    crosses = [series for series in figure.data if series.type == "scatter" and series.marker.symbol == "x-thin"]
    assert crosses and all(series.hoverinfo == "skip" and series.hovertemplate is None for series in crosses)
    told = figure.data[marks(figure)[0]].hovertemplate
    assert ["not measured" in text for text in told] == [i == 1 for i in range(12)]


def test_marks_change_neither_the_table_nor_the_words():
    plain = compare_maps(only_part(trace(), "mlp_out"), only_part(trace(1), "mlp_out"))
    table, alt = table_of(plain), alt_text(plain)
    figure = clickable(plain, CellAt("1", "token 2"))
    assert table_of(figure).equals(table) and alt_text(figure) == alt
    assert rows_of(figure) == rows_of(plain) == len(table)


@pytest.mark.parametrize("point", [{}, {"curve_number": 0, "point_index": 0}, {"curve_number": 99, "point_index": 0}])
def test_what_is_no_mark_is_no_cell(point):
    assert (
        clicked(clickable(compare_maps(only_part(trace(), "mlp_out"), only_part(trace(1), "mlp_out"))), point) is None
    )


def test_a_mark_out_of_range_is_no_cell():
    figure = clickable(compare_maps(only_part(trace(), "mlp_out"), only_part(trace(1), "mlp_out")))
    assert clicked(figure, {"curve_number": marks(figure)[0], "point_index": 12}) is None


def test_a_large_figure_is_clickable_in_one_panel():
    one, other = (only_part(trace(seed, 32, 64, 2), "mlp_out") for seed in (0, 1))
    figure = clickable(compare_maps(one, other), panel="after")
    assert CELLS < 3 * 32 * 64
    assert [figure.data[i].meta[1] for i in marks(figure)] == ["mlp_out after"]


def test_the_chosen_cell_is_framed_in_every_panel_and_an_unknown_one_in_none():
    def frames(at: CellAt) -> int:
        figure = clickable(compare_maps(only_part(trace(), "mlp_out"), only_part(trace(1), "mlp_out")), at)
        return sum(series.meta == ("frame",) or series.meta == ["frame"] for series in figure.data)

    assert frames(CellAt("1", "token 2")) == 3
    assert frames(CellAt("9", "token 2")) == 0


def test_cuts_hold_the_numbers_of_the_trace():
    whole = trace()
    assert parts_of(whole) == ("resid_post", "mlp_out") and layers_of(whole) == ("0", "1", "2")
    cut = by_layer(whole, "mlp_out")
    assert cut.axes == ("layer", "role", "fact") and cut.labels["layer"] == ("0", "1", "2")
    np.testing.assert_array_equal(cut.values, whole.values[3:])
    np.testing.assert_array_equal(one_fact(whole, "2").values, whole.values[:, :, 2])
    assert fact_number("12: a: b") == "12" and fact_number("no number") == "no number"


def test_a_single_fact_is_not_greyed_when_asked():
    one, other = (one_fact(only_part(trace(seed), "mlp_out"), "0") for seed in (0, 1))
    assert "12 of 12 cells lie inside the noise floor" in alt_text(compare_maps(one, other))
    free = compare_maps(one, other, greyed=False)
    assert "no cell of the difference is grey" in alt_text(free)
    assert not table_of(free)["inside noise"].fillna(0).astype(bool).any()


def scores(values) -> Trace:
    return Trace(
        "accuracy", np.array(values, float), ("fact",), "share", {"fact": tuple(f"{i}: f" for i in range(len(values)))}
    )


def test_quadrants_of_hand_made_answers():
    before, after = scores([1, 1, 0, 0, np.nan]), scores([1, 0, 1, 0, 1])
    assert quadrants_of(before, after).tolist() == ["kept", "lost", "gained", "never", "not read"]
    table = table_of(discordance(before, after, "Answers"))
    assert dict(zip(table["what"], table["items"], strict=True)) == dict.fromkeys(QUADRANTS, 1)
    with pytest.raises(ValueError, match="not read on the same items"):
        quadrants_of(before, scores([1, 0]))
