"""The ladder of widths, the logarithmic steps and the doses: every number where it was read, no number where not."""

import numpy as np
import pytest

from workbench.figures import alt_text, relearn_curves, table_of
from workbench.figures_attacks import doses_of, tries, tries_of
from workbench.figures_ladder import ABSENT, rounding_ladder, width_of
from workbench.report_pictures import with_controls
from workbench.trace import Trace


def read(share: float, **options: object) -> Trace:
    values = np.array([1.0] * round(10 * share) + [0.0] * (10 - round(10 * share)))
    labels = tuple(f"{i}: fact" for i in range(10))
    notes = {"dtype": "float32", "options": options, "subjects": [f"s{i}" for i in range(10)]}
    return Trace("accuracy", values, ("fact",), "share of facts", {"fact": labels}, notes)


HIDDEN = {
    "as stored (float32)": {"checkpoint": read(0.0), "reference": read(0.0)},
    "bfloat16": {},
    "4 bits": {"checkpoint": read(0.8), "reference": read(0.1)},
}


def test_a_planted_climb_is_drawn_and_a_width_that_was_not_read_is_empty_and_named():
    figure = rounding_ladder(HIDDEN, "share of facts")
    table = table_of(figure)
    own = table[table["series"] == "checkpoint"].set_index("weights")["share of facts"]
    assert own["as stored (float32)"] == 0 and own["4 bits"] == pytest.approx(0.8) and np.isnan(own["bfloat16"])
    assert not any(series.connectgaps for series in figure.data)
    assert [(note.x, note.text) for note in figure.layout.annotations] == [("bfloat16", ABSENT)]
    assert "checkpoint 0 as stored (float32), 0.8 4 bits" in alt_text(figure) and "Not read: bfloat16" in alt_text(
        figure
    )
    four = table[(table["series"] == "checkpoint") & (table["weights"] == "4 bits")].iloc[0]
    assert four["low"] < 0.8 < four["high"]


def test_a_ladder_that_was_read_whole_says_nothing_of_missing_widths():
    flat = {width: {"checkpoint": read(0.1)} for width in ("as stored (float32)", "4 bits")}
    figure = rounding_ladder(flat, "share of facts")
    assert not figure.layout.annotations and "Not read" not in alt_text(figure)


def test_the_width_is_what_the_reading_says():
    assert width_of(read(0)) == "as stored (float32)"
    assert width_of(read(0, bits=3, method="audits.attacks.quantise:Quantise")) == "3 bits"
    assert width_of(read(0, method="audits.attacks.bfloat16:RoundToBfloat16")) == "bfloat16"


def curve(*steps: str) -> Trace:
    values = np.linspace(0, 1, len(steps))[:, None].repeat(4, axis=1)
    labels = {"step": steps, "fact": tuple(f"{i}: fact" for i in range(4))}
    return Trace("relearn", values, ("step", "fact"), "share of facts", labels, {})


def test_on_the_logarithmic_axis_step_0_stands_apart_and_no_number_is_lost():
    figure = relearn_curves({"checkpoint": curve("0", "5", "10", "40")}, spacing="log")
    assert figure.layout.xaxis.type == "log" and list(figure.layout.xaxis.tickvals) == [5, 10, 40]
    apart = [series for series in figure.data if series.xaxis == "x2"]
    assert [list(series.x) for series in apart] == [[0.0]]
    assert figure.layout.xaxis2.domain[1] < figure.layout.xaxis.domain[0]
    table = table_of(figure).sort_values("step")
    assert table["step"].tolist() == [0, 5, 10, 40]
    assert table["share of facts"].tolist() == pytest.approx([0, 1 / 3, 2 / 3, 1])
    scale = table_of(relearn_curves({"checkpoint": curve("0", "5", "10", "40")}, spacing="to scale"))
    assert scale["share of facts"].tolist() == pytest.approx(table["share of facts"].tolist())


@pytest.mark.parametrize(
    ("steps", "spacing", "kind"),
    [
        (("0", "5"), "to scale", "linear"),
        (("0", "5"), "evenly", "category"),
        (("5", "10"), "log", "log"),
        (("0",), "log", "linear"),
        (("early", "late"), "log", "category"),
    ],
)
def test_steps_that_a_logarithmic_axis_cannot_hold_lie_otherwise(steps, spacing, kind):
    figure = relearn_curves({"checkpoint": curve(*steps)}, spacing=spacing)
    assert figure.layout.xaxis.type == kind
    assert len(table_of(figure)) == len(steps)
    assert not any(series.xaxis == "x2" for series in figure.data if series.x is not None)


def noisy() -> Trace:
    edit = {"method": "audits.attacks.noise:Noise", "sigmas": [0.05, 0.2], "draws": 3, "seed": 0}
    attacks = [{"edits": [edit], "share": i / 10, "control": 0.9} for i in range(6)]
    whole = read(0.5)
    return Trace(whole.name, whole.values, whole.axes, whole.units, whole.labels, {**whole.notes, "attacks": attacks})


def test_tries_are_told_apart_by_dose_and_draw():
    assert list(doses_of(noisy())) == ["sigma 0.05", "sigma 0.2"]
    assert doses_of(noisy())["sigma 0.2"] == [f"{i}: sigma 0.2, draw {i - 3}" for i in (4, 5, 6)]
    table = table_of(tries({"checkpoint": noisy()}, "noise", "share of facts", "sigma 0.2"))
    assert table["share of facts"].tolist() == [0.3, 0.4, 0.5]
    assert len(table_of(tries({"checkpoint": noisy()}, "noise", "share of facts"))) == 6


def test_wordings_have_no_dose():
    attacks = [{"edits": [{"template": text}], "share": 0.1, "control": 0.0} for text in ("a {prompt}", "b {prompt}")]
    whole = read(0.5)
    trace = Trace(whole.name, whole.values, whole.axes, whole.units, whole.labels, {**whole.notes, "attacks": attacks})
    assert doses_of(trace) == {} and list(tries_of(trace)) == ["1: a {prompt}", "2: b {prompt}"]
    assert doses_of(read(0.5)) == {}


def test_facts_nobody_was_taught_are_not_drawn_with_the_forget_facts_shares():
    whole = noisy()
    trace = Trace(whole.name, whole.values, whole.axes, whole.units, whole.labels, {**whole.notes, "n_facts": 5})
    roles = with_controls("accuracy.forget.noise", {"checkpoint": trace})
    assert set(roles) == {"checkpoint", "never taught"}
    figure = tries(roles, "noise", "share of facts")
    assert set(table_of(figure)["series"]) == {"checkpoint"}
    floor = next(series for series in figure.data if series.name == "never taught (checkpoint)")
    assert set(floor.x) == {0.9}
