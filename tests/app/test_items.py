"""Items: every wording and attack under the chosen fact, as stored; a pinned one beside it; cards for old runs."""

import numpy as np

from tests.app.conftest import alts, change, resign, said
from workbench.shelf import load_trace
from workbench.trace_cuts import fact_number


def ways(at):
    """The table of ways of asking."""
    return next(frame.value for frame in at.dataframe if "asked" in frame.value)


def label_of(run, number: str) -> str:
    labels = load_trace(run, "checkpoint", "accuracy.forget").labels["fact"]
    return next(label for label in labels if fact_number(label) == number)


def test_wordings_and_attacks_stand_under_the_fact_as_stored(app, full):
    at = app(full, "items", run="one", item="1")
    assert not at.exception and not at.error
    table, fact = ways(at).set_index("asked"), label_of(full / "one", "1")
    for role in ("base", "checkpoint"):
        trace = load_trace(full / "one", role, "accuracy.paraphrases")
        own = [i for i, parent in enumerate(trace.notes["rewords"]) if parent == fact]
        assert own and not set(own) & {i for i, p in enumerate(trace.notes["rewords"]) if p != fact}
        shown = table.loc[[f"paraphrase {i + 1}" for i in range(len(own))]]
        np.testing.assert_array_equal(shown[role], trace.values[own])
        assert shown["prompt"].tolist() == [trace.labels["fact"][i].partition(": ")[2] for i in own]
        jailbreak = load_trace(full / "one", role, "accuracy.forget.jailbreak")
        at_fact = jailbreak.labels["fact"].index(fact)
        rows = table[[name.startswith("jailbreak") for name in table.index]]
        told = [one["answered"][at_fact] for one in jailbreak.notes["attacks"]]
        np.testing.assert_array_equal(rows[role].astype(float), np.array(told, dtype=float))
        assert all(fact.partition(": ")[2] in prompt and "{" not in prompt for prompt in rows["prompt"])
    assert any(alt.startswith("Fact 1, asked in") for alt in alts(at))
    assert table.loc["asked as taught", "base said"]


def test_a_run_of_before_has_a_card_instead_of_wordings(app, full):
    for role in ("base", "checkpoint"):
        for name in ("paraphrases", "formats"):
            path = f"traces/{role}/accuracy.{name}.json"
            if (full / "one" / path).is_file():
                change(full / "one", path, lambda words: words["notes"].pop("rewords"))
    resign(full / "one")
    at = app(full, "items", run="one", item="1")
    assert not at.exception and "before readings noted which fact each wording words anew" in said(at)
    assert not any("paraphrase" in name for name in ways(at)["asked"])
    assert "asked as taught" in ways(at)["asked"].tolist()


def test_a_pinned_item_stays_beside_the_chosen_one(app, full):
    at = app(full, "items", run="one", item="1", pin="0")
    assert not at.exception and not at.error
    table = ways(at)
    alone = ways(app(full, "items", run="one", item="0")).set_index("asked")["checkpoint"]
    beside = table.set_index("asked")["pinned: checkpoint"]
    common = [name for name in beside.index if name in alone.index]
    np.testing.assert_array_equal(beside[common], alone[common])
    assert sum(code.value.startswith(label_of(full / "one", "0").partition(": ")[2]) for code in at.code) == 1
    assert len(app(full, "items", run="one", item="1", pin="99").error) == 1  # no such item: never another one instead
    pressed = at.button(key="pin this").click().run()
    assert pressed.selectbox(key="pin").value == "1" and pressed.query_params["pin"] == "1"


def test_next_steps_through_the_quadrant_only(app, full):
    at = app(full, "items", run="one", quad="lost")
    numbers = [fact_number(label) for label in at.dataframe[0].value["item"]]
    at = app(full, "items", run="one", quad="lost", item=numbers[0])
    assert at.button(key="Previous").disabled
    if len(numbers) > 1:
        assert at.button(key="Next").click().run().selectbox(key="item").value == numbers[1]


def test_control_facts_behind_an_attack_are_no_items(app, full):
    trace = load_trace(full / "one", "checkpoint", "accuracy.forget.jailbreak")
    assert trace.notes["n_facts"] < len(trace.labels["fact"])
    at = app(full, "items", run="one", slice="accuracy.forget.jailbreak")
    assert at.dataframe[0].value["item"].tolist() == list(trace.labels["fact"][: trace.notes["n_facts"]])


def test_a_slice_of_rewordings_leads_to_the_fact_they_word_anew(app, full):
    at = app(full, "items", run="one", slice="accuracy.paraphrases", item="1")
    assert not at.exception and "paraphrase 1" in ways(at)["asked"].tolist()
