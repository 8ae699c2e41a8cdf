"""The probes page over kinds of probes: what is chosen is what is drawn, and older runs say what would make it."""

import numpy as np
import pytest

from tests.app.conftest import alts, change, figures, resign, said
from tests.app.test_pages import drawn
from workbench.probe_cuts import KIND_WORDS, choices_frame, confusion_of, most_read, relations_of
from workbench.shelf import load_trace

KEY = "probe_kinds.forget"


@pytest.fixture
def kinds(full):
    """What the base and the checkpoint of the audit hold."""
    return {role: load_trace(full / "one", role, KEY) for role in ("base", "checkpoint")}


def test_the_page_shows_the_layer_where_most_is_left(app, full, kinds):
    at = app(full, "probes", run="one")
    assert not at.exception and not at.error
    layer = most_read(kinds["checkpoint"], "linear")
    assert f"At layer {layer}" in said(at)
    titles = "\n".join(alts(at))
    for words in (
        "Probes of several kinds: accuracy",
        f"Calibration of linear probes at layer {layer}",
        "What is taken",
    ):
        assert words in titles
    relation = relations_of(kinds["checkpoint"])[0]
    expected = choices_frame(kinds, "linear", layer)
    expected = expected[(expected["relation"] == relation) & (expected["checkpoint right"] < 1)]
    assert [list(f.value["fact"]) for f in at.dataframe if "checkpoint chose" in f.value] == [list(expected["fact"])]


def test_another_kind_is_drawn_from_its_own_numbers(app, full, kinds):
    at = app(full, "probes", run="one", probe="mlp")
    assert not at.exception and alts(at)[0].startswith("MLP probes by layer")
    series = next(s for s in figures(at)[0]["data"] if s.get("name") == "checkpoint" and "meta" in s)
    expected = np.nanmean(kinds["checkpoint"].pick("reading", "mlp").values, axis=(1, 2))
    np.testing.assert_allclose(drawn(series["y"]), expected, atol=1e-6)
    floor = next(s for s in figures(at)[0]["data"] if s.get("name") == "shuffled answers" and "meta" in s)
    shuffled = np.nanmean(kinds["checkpoint"].pick("reading", "mlp shuffled").values, axis=(1, 2))
    np.testing.assert_allclose(drawn(floor["y"]), shuffled, atol=1e-6)
    over = next(s for s in figures(at)[1]["data"] if s.get("name") == "checkpoint" and "meta" in s)
    np.testing.assert_allclose(drawn(over["y"]), expected - shuffled, atol=1e-6)


def test_erased_states_are_a_floor_and_have_none(app, full):
    at = app(full, "probes", run="one", probe="erased", shown="selectivity", layer="1")
    assert not at.exception and "a floor themselves" in said(at) and "At layer 1" in said(at)
    assert len(app(full, "probes", run="one", probe="quadratic").error) == 1


def test_a_cell_of_the_confusion_leads_to_its_facts(app, full, kinds):
    layer, relation = "0", relations_of(kinds["checkpoint"])[0]
    cut = confusion_of(kinds["checkpoint"], "linear", layer, relation, list(kinds.values()))
    mean = np.nan_to_num(np.nanmean(cut.values, axis=2))
    row, column = np.unravel_index(mean.argmax(), mean.shape)
    answer, chose = cut.labels["answer"][row], cut.labels["predicted"][column]
    at = app(full, "probes", run="one", layer=layer, answer=answer, said=chose, facts="every fact")
    assert not at.exception and not at.error
    table = next(f.value for f in at.dataframe if "checkpoint chose" in f.value)
    assert set(table["answer"]) == {answer}
    assert ((table["checkpoint chose"] == chose) | (table["base chose"] == chose)).all() and len(table) >= 1
    assert len(app(full, "probes", run="one", layer=layer, answer="nobody's").error) == 1


def test_markup_in_an_answer_stays_text(app, full):
    for role in ("base", "checkpoint"):
        change(
            full / "one",
            f"traces/{role}/{KEY}.json",
            lambda w: w["notes"].update(answers=[f"<b>{a}</b>" for a in w["notes"]["answers"]]),
        )
    resign(full / "one")
    at = app(full, "probes", run="one")
    assert not at.exception
    spec = next(f for f in figures(at) if "What is taken" in str(f["layout"]["title"]))
    assert "&lt;b&gt;" in str(spec["data"][0]["y"]) and "<b>" not in str(spec["data"][0]["y"])


def test_an_older_run_says_what_would_make_it(app, full):
    for path in (full / "one").rglob(f"{KEY}.*"):
        path.unlink()
    resign(full / "one")
    at = app(full, "probes", run="one")
    assert not at.exception and "before the reading existed" in said(at)
    assert any("audit" in block.value for block in at.code)
    assert len(alts(at)) == 2 and not any(words in said(at) for words in KIND_WORDS.values() if words != "linear")
    assert len(app(full, "probes", run="one", probe="mlp").error) == 1
