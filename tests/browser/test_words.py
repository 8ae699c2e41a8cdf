"""Token strips and the lens in a browser: what is coloured, what a click changes, and that a text does nothing."""

import json
import re
import shutil

import numpy as np
import pytest

from tests.app.conftest import change, resign
from tests.browser.test_app import url_of
from workbench.shelf import load_trace

pytestmark = pytest.mark.browser

LENS = (
    "[...document.querySelectorAll('.js-plotly-plot')]"
    ".find(c => (c.layout.meta || {}).alt?.startsWith('Lens over fact'))"
)
"""The picture, by its sentence."""


def cell(seen, row: str, place: str):
    """Where a cell of the first panel of the lens lies on the page, scrolled into view."""
    return seen.page.evaluate(
        f"""([row, place]) => {{
            const chart = {LENS};
            chart.scrollIntoView({{block: 'center', behavior: 'instant'}});
            const box = chart.getBoundingClientRect(), x = chart._fullLayout.xaxis, y = chart._fullLayout.yaxis;
            const at = (axis, number) => axis._offset + axis.c2p(number);
            const column = x._categories.findIndex(label => label.startsWith(place + ' '));
            return [box.left + at(x, column), box.top + at(y, y._categories.indexOf(row))];
        }}""",
        [row, place],
    )


def press(seen, row: str, place: str) -> None:
    """Click as a hand does: move there, wait for the words under the pointer, click."""
    seen.page.mouse.move(*cell(seen, row, place))
    seen.page.wait_for_selector(".js-plotly-plot .hovertext")
    seen.page.mouse.click(*cell(seen, row, place))


def test_a_strip_is_coloured_by_the_stored_probability(browse, store):
    seen = browse().open("items", run="one", item="1")
    trace = load_trace(store / "one", "base", "answer_tokens.forget")
    strip = seen.page.locator("[role=img][aria-label^='base, the answer']")
    tokens = strip.locator("span[title]")
    read = trace.values[1][np.isfinite(trace.values[1])]
    assert tokens.count() == len(read)
    told = [tokens.nth(i).get_attribute("title").rpartition(": ")[2] for i in range(len(read))]
    assert [float(value) for value in told] == pytest.approx(np.exp(read), rel=0.01)
    colors = [tokens.nth(i).evaluate("e => getComputedStyle(e).backgroundColor") for i in range(len(read))]
    likely = np.exp(read) > 0.9
    assert likely.any() and all(
        int(re.findall(r"\d+", color)[0]) > 200 for color, yes in zip(colors, likely, strict=True) if yes
    )
    after = seen.page.locator("[role=img][aria-label^='checkpoint, the answer'] span[title]").first
    assert int(re.findall(r"\d+", after.evaluate("e => getComputedStyle(e).backgroundColor"))[0]) < 100


def test_text_of_a_model_does_nothing_in_a_strip(browse, store):
    run = store / "nasty"
    shutil.copytree(store / "one", run)
    text = '"><img src="http://198.51.100.1/x" onerror="document.title=1"><script>document.title=2</script>'

    def spoil(words: dict) -> None:
        for name in ("answer_tokens", "said_tokens"):
            words["notes"][name] = [[text for _ in row] for row in words["notes"][name]]
        words["notes"]["prompt"] = [text for _ in words["notes"]["prompt"]]

    change(run, "traces/checkpoint/answer_tokens.forget.json", spoil)
    resign(run)
    seen = browse().open("items", run="nasty", item="1")
    seen.page.wait_for_timeout(1000)
    shutil.rmtree(run)
    assert text[2:12] in seen.text().replace("·", " ")
    assert seen.page.title() not in ("1", "2")
    assert [url for url in seen.requests if "198.51.100.1" in url] == []


def test_clicking_a_cell_of_the_lens_shows_what_is_in_it(browse, store):
    seen = browse().open("lens", run="one", item="0")
    seen.page.wait_for_function(LENS + " !== undefined")
    trace = load_trace(store / "one", "base", "lens_words.forget")
    for row, place in (("1", "2"), ("0", "1")):
        press(seen, row, place)
        seen.page.wait_for_selector(f"h3:has-text('Layer {row}, token {place} ')")
        seen.settled()
        assert url_of(seen)["layer"] == row and url_of(seen)["word"] == place
    drawn = json.loads(seen.page.evaluate(f"JSON.stringify({LENS}.data[0].customdata)"))
    layer = trace.labels["layer"].index("L0")
    assert drawn[layer][1][0] == pytest.approx(float(trace.values[0, 0, layer, 1]), rel=1e-6)


def test_the_box_does_by_keyboard_what_the_click_does(browse):
    seen = browse().open("lens", run="one", item="0", layer="1")
    box = seen.page.get_by_role("combobox", name="Token")
    box.focus()
    seen.page.keyboard.type("2 ")
    seen.page.keyboard.press("Enter")
    seen.page.wait_for_selector("h3:has-text('Layer 1, token 2 ')")
