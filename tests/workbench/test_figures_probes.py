"""Cuts and pictures of probes: every number drawn is the one that was planted in the trace."""

import json

import numpy as np
import pytest

from workbench.errors import BadInput
from workbench.figures import figure_of
from workbench.figures_click import CellAt, clickable, clicked
from workbench.figures_probes import confusion_figure, kinds_figure, learning_figure, reliability_figure
from workbench.figures_style import alt_text, table_of
from workbench.probe_cuts import (
    answer_names,
    choices_frame,
    confusion_of,
    curve_of,
    kinds_in,
    map_of,
    most_read,
    relations_of,
    reliability_of,
    tokens_frame,
)
from workbench.trace import Trace

NAN = float("nan")
TRUTH = [0, 0, 1, 2]
"""Red, red, blue, and an answer that training did not show."""


def told(chosen: list[list[float]], sure: list[list[float]], model: str = "m", **notes: object) -> Trace:
    """A trace of one kind with two seeds; layer L1 holds what is given, layer embed always chooses red."""
    said, certain = np.array(chosen, dtype=float), np.array(sure, dtype=float)
    right = np.where(np.array(TRUTH) == 2, NAN, said == np.array(TRUTH))
    flat = np.zeros_like(said)
    poor = np.where(np.array(TRUTH) == 2, NAN, flat == np.array(TRUTH))
    readings = {
        "linear": np.stack([poor, right]),
        "linear chosen": np.stack([flat, said]),
        "linear sure": np.stack([np.full_like(said, 0.5), certain]),
        "linear shuffled": np.stack([0 * poor, 0.25 * right]),
        "erased": np.stack([0 * poor, 0 * right]),
        "5 subjects": np.stack([0 * poor, 0.5 * right]),
    }
    labels = {
        "reading": tuple(readings),
        "layer": ("embed", "L1"),
        "seed": ("0", "1"),
        "fact": ("3: A is", "4: B is", "5: C is", "8: D is"),
    }
    about = {
        "model": model,
        "subjects": ["A", "B", "C", "D"],
        "answers": ["red", "blue", "green", "oak"],
        "answer_relations": ["colour", "colour", "colour", "tree"],
        "truth": TRUTH,
        "curve": [5],
        "training_subjects": 40,
        "promoted": {"embed": {}, "L1": {"0": [7, 9], "1": [9, 7]}},
        "own_rank": {"embed": {}, "L1": {"0": 1, "1": 30}},
        "vocabulary": {"7": " red", "9": " <b>"},
    }
    return Trace("probe_kinds", np.stack(list(readings.values())), tuple(labels), "see reading", labels, about | notes)


@pytest.fixture
def before() -> Trace:
    return told([[0, 0, 1, 0]] * 2, [[0.9, 0.9, 0.9, 0.9]] * 2, "base")


@pytest.fixture
def after() -> Trace:
    return told([[0, 1, 0, 0], [0, 1, 1, 0]], [[0.95, 0.7, 0.3, 0.9], [0.85, 0.8, 0.5, 0.9]])


def test_the_map_has_each_kind_and_its_excess_over_shuffled_answers(before, after):
    assert kinds_in(after) == ("linear", "erased")
    cut = map_of(after)
    assert cut.labels["layer"] == ("embed", "1") and cut.labels["probe"] == ("linear", "LEACE-erased")
    np.testing.assert_array_equal(cut.values[1], [[1, 0, 0.5, NAN], [0, 0, 0, NAN]])
    above = map_of(after, selectivity=True)
    assert above.labels["probe"] == ("linear",) and above.units == "above shuffled answers"
    np.testing.assert_array_equal(above.values[1], [[0.75, 0, 0.375, NAN]])
    table = table_of(kinds_figure({"base": before, "checkpoint": after}, "Kinds"))
    cell = table[(table["panel"] == "after") & (table["layer"] == "1") & (table["probe"] == "linear")]
    assert cell["value"].item() == pytest.approx(0.5)
    assert "lie inside the noise floor" in alt_text(kinds_figure({"base": before, "checkpoint": after}, "Kinds"))
    assert figure_of(after).data


def test_most_is_left_where_the_probe_reads_most(before, after):
    assert most_read(before, "linear") == "1"
    assert most_read(told([[1, 1, 0, 0]] * 2, [[0.5] * 4] * 2), "linear") == "embed"


def test_the_learning_curve_ends_with_all_subjects(before, after):
    curve = curve_of(after, "1")
    assert curve.labels["step"] == ("5", "40")
    np.testing.assert_allclose(np.nanmean(curve.values, axis=(1, 2)), [0.25, 0.5])
    figure = learning_figure({"base": curve_of(before, "1"), "checkpoint": curve}, "Curve", 0.5)
    assert figure.layout.xaxis.type == "log" and list(figure.layout.xaxis.tickvals) == [5, 40]
    assert figure.layout.xaxis.title.text == "training subjects" and "chance 0.5" in json.dumps(
        figure.to_plotly_json()["layout"]["annotations"]
    )
    with pytest.raises(BadInput, match="L9"):
        curve_of(after, "L9")


def test_confidence_is_held_against_accuracy(after):
    found = reliability_of(after, "linear", "1")
    assert found.count.tolist() == [
        0,
        1,
        1,
        1,
        3,
    ]  # 0.3 | 0.5 | 0.7 | 0.8, 0.85, 0.95; the fact without a choice is out
    np.testing.assert_allclose(found.right.mean[1:], [0, 1, 0, 2 / 3])
    np.testing.assert_allclose(found.sure.mean[1:], [0.3, 0.5, 0.7, 2.6 / 3])
    assert found.error == pytest.approx((0.3 + 0.5 + 0.7 + 3 * (2.6 / 3 - 2 / 3)) / 6)
    table = table_of(reliability_figure({"checkpoint": found}, "Calibration"))
    assert table["choices"].tolist() == [1, 1, 1, 3] and "calibration error 0.35" in alt_text(
        reliability_figure({"checkpoint": found}, "Calibration")
    )


def test_a_row_of_the_confusion_sums_to_one_over_its_own_facts(before, after):
    assert relations_of(after) == ("colour",)
    cut = confusion_of(after, "linear", "1", "colour", [before, after])
    assert cut.labels["answer"] == cut.labels["predicted"] == ("red", "blue")  # green was never a choice
    mean = np.nanmean(cut.values, axis=2)
    np.testing.assert_allclose(mean, [[0.5, 0.5], [0.5, 0.5]])
    np.testing.assert_allclose(mean.sum(axis=1), 1)
    assert np.isnan(cut.values[0, :, 2]).all() and np.isnan(cut.values[..., 3]).all()
    figure = confusion_figure({"base": confusion_of(before, "linear", "1", "colour", [after]), "checkpoint": cut}, "C")
    table = table_of(figure)
    assert {"answer", "predicted", "value"} <= set(table)
    wrong = table[(table["panel"] == "after") & (table["answer"] == "red") & (table["predicted"] == "blue")]
    assert wrong["value"].item() == 0.5
    drawn = clickable(figure, CellAt("red", "blue"))
    number = max(
        i for i, series in enumerate(drawn.data) if isinstance(series.meta, list | tuple) and "cell" in series.meta
    )
    assert clicked(drawn, {"curve_number": number, "point_index": 1}) == CellAt("red", "blue")
    assert not any("layer %{y}" in str(series.hovertemplate) for series in drawn.data)


def test_the_surest_mistakes_come_first_and_what_was_not_read_last(before, after):
    table = choices_frame({"base": before, "checkpoint": after}, "linear", "1")
    assert table["fact"].tolist() == ["4: B is", "5: C is", "3: A is", "8: D is"]
    assert table["checkpoint chose"].tolist()[:1] == ["blue"] and table["base chose"].tolist()[:2] == ["red", "blue"]
    np.testing.assert_allclose(table["checkpoint right"], [0, 0.5, 1, NAN])
    np.testing.assert_allclose(table["checkpoint sure"], [0.75, 0.4, 0.9, 0.9])


def test_of_two_mistakes_the_surer_comes_first():
    trace = told([[1, 1, 1, 0]] * 2, [[0.6, 0.8, 0.9, 0.9]] * 2)
    assert choices_frame({"checkpoint": trace}, "linear", "1")["fact"].tolist()[:2] == ["4: B is", "3: A is"]


def test_tokens_are_spelt_and_missing_weights_have_no_row(before, after):
    table = tokens_frame({"base": before, "checkpoint": after}, "1", "colour")
    assert table["answer"].tolist() == ["red", "red", "blue", "blue"]
    assert table["rank of its own token"].tolist() == [1, 1, 30, 30]
    assert table["promotes"].tolist()[1:3] == ["red · <b>", "<b> · red"]
    assert tokens_frame({"base": before}, "embed", "colour").empty and tokens_frame({"base": before}, "1", "tree").empty


def test_long_answers_stay_apart():
    long = "a" * 40
    trace = told([[0, 0, 1, 0]] * 2, [[0.9] * 4] * 2, answers=[long, long + "b", "green", long])
    names = answer_names(trace)
    assert len(set(names[:3])) == 3 and max(map(len, names)) < 40
    assert names[3] == names[0]  # of another relation
