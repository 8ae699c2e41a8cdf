"""The recovery page: steps, tiles, the ladder of widths, and one attack at one dose."""

import shlex

import pytest

from tests.app.conftest import alts, figures, resign, said
from workbench.shelf import load_trace


def chart(at, words: str) -> dict:
    return next(f for f, alt in zip(figures(at), alts(at), strict=True) if words in alt)


def test_the_steps_are_logarithmic_at_first_and_linear_when_asked(app, full):
    assert figures(app(full, "recovery", run="one"))[0]["layout"]["xaxis"]["type"] == "log"
    at = app(full, "recovery", run="one", spacing="to scale")
    assert figures(at)[0]["layout"]["xaxis"]["type"] == "linear"
    tiles = [(metric.label, metric.value) for metric in at.metric]
    assert {"area", "half back"} == {label for label, _ in tiles}
    assert "Budget: 2 steps of AdamW" in said(at)


def test_the_ladder_names_the_widths_that_were_not_read_with_the_command_that_reads_them(app, full):
    at = app(full, "recovery", run="one")
    alt = next(alt for alt in alts(at) if "by width of the weights" in alt)
    assert "Not read: 8 bits, 3 bits" in alt and "bfloat16" in alt.split("Not read")[0]
    own = load_trace(full / "one", "checkpoint", "accuracy.forget.quantise")
    share = own.values[: own.notes["n_facts"]].mean()
    assert f"{share:.3g} 4 bits" in alt
    command = next(shlex.split(code.value) for code in at.code if "--suite full" in code.value)
    assert command[:2] == ["workbench", "audit"] and command.count("--suite") == 1
    assert command[command.index("--out") + 1].endswith("-again")


def test_a_run_without_any_rounding_gets_a_card(app, full):
    for path in (full / "one" / "traces").glob("*/accuracy.forget.quantise*"):
        path.unlink()
    resign(full / "one")
    at = app(full, "recovery", run="one")
    assert not at.exception and "under quantise: not measured" in said(at)
    assert not any("by width of the weights" in alt for alt in alts(at))


def test_one_attack_at_one_dose(app, full):
    at = app(full, "recovery", run="one", attack="Accuracy on forget, under noise", dose="sigma 0.1")
    assert not at.error
    shown = chart(at, "3 tries:")["data"]
    assert all("sigma 0.1, draw" in y for series in shown for y in series["y"])
    at = app(full, "recovery", run="one", attack="Relearn on forget", dose="step: 1")
    read = load_trace(full / "one", "checkpoint", "relearn.forget")
    assert "step: 1: base" in next(a for a in alts(at) if "at one dose" in a).lower() and "1" in read.labels["step"]


@pytest.mark.parametrize("name", ["attack", "dose", "spacing"])
def test_what_the_link_asks_for_in_vain_is_named(app, full, name):
    at = app(full, "recovery", run="one", **{name: "no such thing"})
    assert len(at.error) == 1 and "'no such thing'" in said(at)
