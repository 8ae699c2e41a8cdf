"""Token strips on the Items page and words in the lens: the stored numbers, a card where they lack, hostile text."""

import html
import json
import re

import numpy as np
import pytest

from tests.app.conftest import alts, change, figures, resign, said
from tests.workbench.test_figures_tokens import HOSTILE
from workbench.shelf import load_trace
from workbench.trace_cuts import fact_number

TOKENS, WORDS = "answer_tokens.forget", "lens_words.forget"


def drawn(at) -> str:
    return "\n".join(element.proto.body for element in at.get("html"))


def test_the_item_shows_prompt_target_and_every_token_of_every_model(app, full):
    at = app(full, "items", run="one", item="1")
    assert not at.exception and not at.error
    strips = drawn(at)
    for role in ("base", "checkpoint"):
        trace = load_trace(full / "one", role, TOKENS)
        label = next(text for text in trace.labels["fact"] if fact_number(text) == "1")
        number = trace.labels["fact"].index(label)
        assert any(trace.notes["prompt"][number] in code.value for code in at.code)
        assert any(trace.notes["answer"][number] in code.value for code in at.code)
        table = at.dataframe[1].value
        mine = table[(table["role"] == role) & (table["text"] == "the answer")]
        values = trace.values[number]
        np.testing.assert_allclose(mine["logprob"], values[np.isfinite(values)])
        own = table[(table["role"] == role) & (table["text"] == "what it says")]
        np.testing.assert_allclose(own["logprob"], trace.notes["said_logprob"][number])
        assert f'aria-label="{role}, the answer, probability of each token: ' in strips
    assert strips.count('scope="row"') == 2  # no reference in this audit


def test_run_b_joins_the_strips(app, full):
    strips = drawn(app(full, "items", run="one", cmp="more/two", item="1"))
    assert strips.count('scope="row"') == 3 and "run B (" in strips


def test_a_strip_with_too_few_numbers_is_a_card(app, full):
    def shorten(words: dict) -> None:
        words["notes"]["said_logprob"] = [row[:-1] for row in words["notes"]["said_logprob"]]

    change(full / "one", f"traces/checkpoint/{TOKENS}.json", shorten)
    resign(full / "one")
    at = app(full, "items", run="one", item="1")
    assert not at.exception and "do not fit its numbers" in said(at)
    assert drawn(at).count('scope="row"') == 1  # the base's stay


@pytest.mark.parametrize(("page", "key"), [("items", TOKENS), ("lens", WORDS)])
def test_a_run_of_before_says_what_is_missing_and_the_command(app, full, page, key):
    for path in (full / "one" / "traces").glob(f"*/{key}*"):
        path.unlink()
    resign(full / "one")
    at = app(full, page, run="one", item="1")
    assert not at.exception and not at.error
    assert "made before the reading existed" in said(at)
    command = next(code.value for code in at.code if code.value.startswith("workbench audit "))
    assert command.split("--out ")[1].endswith("-again")  # a finished run is not added to
    assert drawn(at) == ""


def test_text_of_models_does_nothing_on_either_page(app, full):
    nasty = "".join(HOSTILE)
    for role in ("base", "checkpoint"):
        where = f"traces/{role}"
        for name in ("prompt", "answer", "said"):
            change(full / "one", f"{where}/{TOKENS}.json", lambda w, n=name: w["notes"].update({n: [nasty] * 99}))
            change(full / "one", f"{where}/{WORDS}.json", lambda w, n=name: w["notes"].update({n: [nasty] * 99}))
        change(full / "one", f"{where}/{TOKENS}.json", _all_tokens)
        change(full / "one", f"{where}/{WORDS}.json", _all_words)
    resign(full / "one")
    for page in ("items", "lens"):
        at = app(full, page, run="one", item="0", layer="1", word="0")
        assert not at.exception and not at.error
        tags = re.findall(r"<\s*/?\s*(\w+)", drawn(at))
        assert set(tags) <= {"div", "table", "tr", "th", "td", "span", "br"}
        everything = drawn(at) + said(at) + json.dumps(figures(at), ensure_ascii=False)
        for control in ("\x1b", "\x07", "\x00", "\u202e", "\u2028"):
            assert control not in everything
        for kind in ("markdown", "caption", "error", "warning", "info", "header", "subheader"):
            for element in at.get(kind):
                for mark in (r"(?<!\\)!\[", r"(?<!\\)<img", r"(?<!\\)<script", r"(?<!\\)`c", r"(?<!\\):material"):
                    assert not re.search(mark, str(element.value)), (kind, element.value)
        assert "<script" not in json.dumps(figures(at)) and "<img" not in json.dumps(figures(at))
    assert html.escape("<script>") in drawn(app(full, "items", run="one", item="0"))


def _all_tokens(words: dict) -> None:
    for name in ("answer_tokens", "said_tokens"):
        words["notes"][name] = [[HOSTILE[i % 8] for i, _ in enumerate(row)] for row in words["notes"][name]]


def _all_words(words: dict) -> None:
    words["notes"]["tokens"] = [[HOSTILE[i % 8] for i, _ in enumerate(row)] for row in words["notes"]["tokens"]]
    words["notes"]["vocabulary"] = {key: HOSTILE[int(key) % 8] for key in words["notes"]["vocabulary"]}


def test_notes_that_do_not_fit_are_a_card(app, full):
    for role in ("base", "checkpoint"):
        change(full / "one", f"traces/{role}/{TOKENS}.json", lambda w: w["notes"].update(answer_tokens=[]))
        change(full / "one", f"traces/{role}/{WORDS}.json", lambda w: w["notes"].update(tokens=[]))
    resign(full / "one")
    for page in ("items", "lens"):
        at = app(full, page, run="one", item="1")
        assert not at.exception and "do not fit its numbers" in said(at)


def test_the_lens_draws_the_stored_words_and_numbers(app, full):
    at = app(full, "lens", run="one", item="0")
    figure = next(f for f in figures(at) if "Lens over fact 0" in json.dumps(f["layout"]["title"]))
    base = load_trace(full / "one", "base", WORDS)
    panel = next(s for s in figure["data"] if s["type"] == "heatmap" and s["meta"]["panel"] == "base")
    from tests.app.test_pages import drawn as numbers

    length = len(base.notes["tokens"][0])
    np.testing.assert_allclose(numbers(panel["z"]), base.values[0, 0, :, :length], rtol=1e-6)
    assert any(alt.startswith("Lens over fact 0, the first word in every cell") for alt in alts(at))


def test_a_chosen_cell_shows_what_each_model_has_there(app, full):
    at = app(full, "lens", run="one", item="0", layer="1", word="2")
    assert not at.exception and not at.error
    base = load_trace(full / "one", "base", WORDS)
    row = base.labels["layer"].index("L1")
    assert any("Layer 1, token 2" in header.value.replace("\\", "") for header in at.subheader)
    here = at.dataframe[-3].value
    first = here[here["role"] == "base"].iloc[0]
    assert first["probability"] == pytest.approx(float(base.values[0, 0, row, 2]))
    assert first["rank"] == base.values[1, 0, row, 2]
    word = base.notes["vocabulary"][str(int(base.values[3, 0, row, 2]))]
    assert first["first word"].lstrip("·") == word.strip()
    assert len(at.dataframe[-1].value) == len(base.labels["layer"]) * 2
    assert at.selectbox(key="word").value == "2"


def test_a_click_on_a_cell_is_the_two_boxes(app, full):
    at = app(full, "lens", run="one", item="0")
    figure = next(f for f in figures(at) if "Lens over fact 0" in json.dumps(f["layout"]["title"]))
    marks = next(s for s in figure["data"] if isinstance(s.get("meta"), list) and s["meta"][0] == "cell")
    options = at.selectbox(key="word").options
    assert {html.unescape(x) for x in marks["x"]} == set(
        options[1:]
    )  # what a click gives begins with the value of the box
    assert {x.partition(" ")[0] for x in marks["x"]} == {str(i) for i in range(len(options) - 1)}
    layers = {option.removeprefix("layer ") for option in at.selectbox(key="layer").options}
    assert set(marks["y"]) <= layers


def test_a_fact_whose_words_were_not_read_says_how_to_read_them(app, full):
    there = load_trace(full / "one", "checkpoint", WORDS).values.shape[1]
    at = app(full, "lens", run="one", item=str(there))
    assert not at.exception
    assert f"first {there} facts only" in said(at)
    assert any(f"reading.trace_facts={there + 1}" in code.value for code in at.code)


def test_the_colour_may_be_the_rank(app, full):
    at = app(full, "lens", run="one", item="0", colour="rank")
    assert any("coloured by the rank" in alt for alt in alts(at))
    assert len(app(full, "lens", run="one", colour="sound").error) == 1
