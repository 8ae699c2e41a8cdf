"""Depth: the bar of knowledge-encoding layers is counted from the stored drops, and a card where it cannot be."""

import numpy as np

from tests.app.conftest import alts, change, figures, resign, said
from workbench.shelf import load_trace
from workbench.trace import Trace

DEPTH = "depth_score.forget"


def with_reference(run) -> Trace:
    """A stand-in: what the planted audit lacks, a reference, whose states cost the base twice the checkpoint's."""
    own = load_trace(run, "checkpoint", DEPTH)
    made = Trace(own.name, 2 * own.values, own.axes, own.units, own.labels, own.notes)
    (run / "traces" / "reference").mkdir(exist_ok=True)
    made.save(run / "traces" / "reference" / DEPTH)
    return made


def test_without_a_reference_it_is_a_card_with_a_command(app, full):
    at = app(full, "depth", run="one")
    assert not at.exception and not at.error
    assert "retrained without the concept" in said(at)
    assert any(code.value.endswith("--reference REFERENCE") for code in at.code)
    assert not any(alt.startswith("Facts that each layer carries") for alt in alts(at))


def test_the_bars_are_counted_from_the_stored_drops(app, full):
    from tests.app.test_pages import drawn

    first = with_reference(full / "one")
    resign(full / "one")
    at = app(full, "depth", run="one", layer="1", cmp="more/two")
    assert not at.exception and not at.error
    figure = next(f for f in figures(at) if "Facts that each layer carries" in str(f["layout"]["title"]))
    of = {(s["meta"]["panel"], s["meta"]["series"]): s for s in figure["data"]}
    gone, left = of["checkpoint", "erased"], of["checkpoint", "still readable"]
    there = first.values / np.array(first.notes["answer_tokens"]) > first.notes["options"]["threshold"]
    assert there.any() and not there.all()
    np.testing.assert_allclose(np.add(drawn(gone["y"]), drawn(left["y"])), there.mean(axis=1))
    np.testing.assert_allclose(drawn(gone["y"]), there.mean(axis=1) / 2)
    assert {f"layer {name}" for name in gone["ids"]} <= set(at.selectbox(key="layer").options)  # a click is the box
    assert gone["marker"]["line"]["width"][gone["ids"].index("1")] == 3
    assert sum(panel.startswith("run B") for panel, _ in of) == 2


def test_a_run_b_of_another_base_is_left_out_and_says_so(app, full):
    with_reference(full / "one")
    resign(full / "one")
    change(full / "more" / "two", f"traces/checkpoint/{DEPTH}.json", lambda w: w["notes"].update(identity="other"))
    resign(full / "more" / "two")
    at = app(full, "depth", run="one", cmp="more/two")
    figure = next(f for f in figures(at) if "Facts that each layer carries" in str(f["layout"]["title"]))
    assert {s["meta"]["panel"] for s in figure["data"]} == {"checkpoint"}
    assert "by another base" in said(at)


def test_a_stand_in_in_the_notes_serves_where_no_reference_was_read(app, full):
    own = load_trace(full / "one", "checkpoint", DEPTH)
    first = np.abs(own.values) + 1.0
    change(full / "one", f"traces/checkpoint/{DEPTH}.json", lambda w: w["notes"].update(first_drop=first.tolist()))
    resign(full / "one")
    at = app(full, "depth", run="one")
    assert "reading of another subject" in said(at)
    assert any(alt.startswith("Facts that each layer carries") for alt in alts(at))
