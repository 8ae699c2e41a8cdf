"""The app in a browser: links, clicks, downloads, and that nothing leaves the machine."""

import csv
import io
import json
import shutil
from urllib.parse import parse_qs, urlparse

import numpy as np
import pytest

from tests.app.conftest import PAGES, resign
from workbench.shelf import load_trace

pytestmark = pytest.mark.browser

OWN_404 = ("/_stcore/health", "/_stcore/host-config")
"""What Streamlit itself asks for under a page's address, and does not find."""


def url_of(seen) -> dict[str, str]:
    return {name: values[0] for name, values in parse_qs(urlparse(seen.page.url).query).items()}


def test_no_request_leaves_the_machine_and_the_console_is_clean_on_any_page(browse):
    seen = browse()  # one browser for all pages: it fetches Streamlit and plotly once
    for page in PAGES:
        seen.open(page, run="one", cmp="more/two").page.wait_for_timeout(300)
        outside = [url for url in seen.requests if not url.startswith((seen.address, "data:", "blob:", "about:"))]
        assert (page, outside) == (page, [])
        assert (page, [url for url in seen.lost if not url.endswith(OWN_404)]) == (page, [])
        assert (page, [text for text in seen.console if "404" not in text]) == (page, [])
        assert len([text for text in seen.console if "404" in text]) <= len(seen.lost)
    assert seen.requests  # it was listened to


def test_a_link_restores_the_exact_view(browse):
    first = browse().open("trace", run="more/two", kind="mlp_out", layer="1", tok="last subject", item="2")
    there = first.page.url
    second = browse()
    second.page.goto(there)
    second.page.wait_for_selector("h2")
    second.settled()
    assert second.settled().text() == first.settled().text()  # a busy machine draws in several goes
    assert url_of(second) == url_of(first)
    assert "Layer 1, last subject" in second.text() and "fact 2" in second.page.content()


def test_a_link_with_an_invalid_value_is_an_error_that_names_it(browse):
    seen = browse().open("trace", run="nope")
    assert "'nope'" in seen.text() and "(run=…)" in seen.text()
    assert seen.page.query_selector("[data-testid=stPlotlyChart]") is None


def cell(seen, row: str, column: str):
    """Where a cell of the first map lies on the page, by the drawn axes."""
    return seen.page.evaluate(
        """([row, column]) => {
            const chart = document.querySelector('.js-plotly-plot');
            const box = chart.getBoundingClientRect(), x = chart._fullLayout.xaxis, y = chart._fullLayout.yaxis;
            const at = (axis, label) => axis._offset + axis.c2p(axis._categories.indexOf(label));
            return [box.left + at(x, column), box.top + at(y, row)];
        }""",
        [row, column],
    )


def press(seen, row: str, column: str) -> None:
    """Click a cell as a hand does: plotly takes a click for the mark that the pointer rests on."""
    seen.page.mouse.move(*cell(seen, row, column))
    seen.page.wait_for_selector(".js-plotly-plot .hovertext")
    seen.page.mouse.click(*cell(seen, row, column))


def test_clicking_a_cell_changes_the_detail_and_the_url(browse):
    seen = browse().open("trace", run="one")
    assert "Layer 1, last subject" not in seen.text()
    for row, column in (("1", "last subject"), ("0", "first subject"), ("1", "last subject")):
        press(seen, row, column)
        seen.page.wait_for_selector(f"h3:has-text('Layer {row}, {column}')")
        seen.settled()
        assert url_of(seen)["layer"] == row and url_of(seen)["tok"] == column


def test_the_boxes_do_by_keyboard_what_a_click_does(browse):
    seen = browse().open("trace", run="one", layer="1")
    box = seen.page.get_by_role("combobox", name="Token")
    box.focus()
    seen.page.keyboard.type("last subject")
    seen.page.keyboard.press("Enter")
    seen.page.wait_for_selector("h3:has-text('Layer 1, last subject')")


def test_the_download_holds_the_numbers_drawn(browse, store):
    seen = browse().open("trace", run="one", kind="resid_post")
    with seen.page.expect_download() as waiting:
        seen.page.get_by_role("button", name="Download CSV").first.click()
    rows = list(csv.DictReader(io.StringIO(waiting.value.path().read_text(encoding="utf-8-sig"))))
    shown = {
        (row["layer"], row["role"]): row["value"]
        for row in rows
        if row["panel"] == "resid_post before" and row["value"]
    }
    trace = load_trace(store / "one", "base", "causal_trace.forget")
    for layer in range(2):
        for j, role in enumerate(trace.labels["role"]):
            read = trace.values[trace.labels["site"].index(f"L{layer}.resid_post"), j]
            if np.isfinite(read).any():
                assert float(shown[str(layer), role]) == pytest.approx(float(read[np.isfinite(read)].mean()), rel=1e-12)
    in_chart = seen.page.evaluate(
        """JSON.stringify(Array.from(document.querySelector('.js-plotly-plot')._fullData[0].customdata,
            line => Array.from(line, cell => Array.from(cell))))"""
    )
    drawn = [value[0] for line in json.loads(in_chart) for value in line]
    assert sorted(float(v) for v in shown.values()) == pytest.approx(sorted(v for v in drawn if v is not None))


@pytest.mark.parametrize("page", ["Lens", "Causal trace"])
def test_three_clicks_lead_from_the_verdict_to_fact_layer_and_token(browse, store, page):
    """From the first screen, without a word typed: what is left inside, of which fact, at which layer and token."""
    seen = browse().open()
    assert "What was to be forgotten?" in seen.text() and "Is the knowledge still there?" in seen.text()
    run = url_of(seen)["run"]
    link = seen.page.get_by_role("link", name=f"{page}: fact").first
    place = link.inner_text()
    link.click()  # the first click
    seen.page.wait_for_selector(f"h2:has-text('{page}')")
    seen.settled()
    at = url_of(seen)
    assert at["run"] == run and f"fact {at['item']}, layer {at['layer']}" in place
    key = {"Lens": "logit_lens.forget", "Causal trace": "causal_trace.forget"}[page]
    trace = load_trace(store / run, "checkpoint", key)
    label = next(text for text in trace.labels["fact"] if text.split(":")[0] == at["item"])
    if page == "Causal trace":
        assert at["tok"] in place and at["tok"] in trace.labels["role"]
        assert f"Layer {at['layer']}, {at['tok']}" in seen.text()
        seen.page.get_by_text("In words and numbers").first.click()  # the second: the numbers behind the picture
        seen.settled()
        assert f"fact {at['item']}" in seen.page.content()
    else:
        assert label.partition(": ")[2] in seen.text()
        picture = seen.page.get_by_role("figure", name=f"Fact {at['item']} by layer").first
        assert f"at layer {at['layer']}" in picture.get_attribute("aria-label")


def test_a_page_that_is_left_and_come_back_to_is_as_it_was(browse):
    seen = browse().open("trace", run="more/two", kind="attn_out", layer="1")
    seen.page.get_by_role("link", name="Recovery").click()
    seen.page.wait_for_selector("h2:has-text('Recovery')")
    seen.settled()
    assert url_of(seen)["run"] == "more/two" and url_of(seen)["layer"] == "1"
    seen.page.get_by_role("link", name="Causal trace").click()
    seen.page.wait_for_selector("h2:has-text('Causal trace')")
    seen.settled()
    assert url_of(seen)["kind"] == "attn_out" and url_of(seen)["run"] == "more/two"


def test_a_report_from_elsewhere_cannot_reach_the_app_or_the_network(browse, store):
    run = store / "hostile"
    shutil.copytree(store / "one", run)
    script = (
        "<script>try{document.title='x'+parent.parent.document.title}catch(e){document.title='caged'};"
        "fetch('http://198.51.100.1/a').catch(()=>0);new Image().src='http://198.51.100.1/b';"
        "try{location='http://198.51.100.1/c'}catch(e){};document.body.dataset.ran='yes'</script><body>planted</body>"
    )
    (run / "report.html").write_text(f"<!doctype html>{script}")
    resign(run)
    seen = browse().open("report", run="hostile", form="report")
    seen.page.wait_for_timeout(1500)
    shutil.rmtree(run)
    assert [url for url in seen.requests if "198.51.100.1" in url] == []
    titles = [frame.title() for frame in seen.page.frames if "srcdoc" in frame.url]
    assert not any(title.startswith("x") for title in titles)
