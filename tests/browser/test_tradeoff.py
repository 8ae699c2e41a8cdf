"""Marks of the trade-off are picked by hand: a click and a box fill the table, the box above it and the URL."""

from urllib.parse import parse_qs, urlparse

import pytest

pytestmark = pytest.mark.browser

LISTED = "new URLSearchParams(location.search).getAll('runs').length"


def places(seen) -> dict[str, list[float]]:
    """Where the mark of each audit lies on the page."""
    return seen.page.evaluate(
        """() => {
            const chart = document.querySelector('.js-plotly-plot'), found = {};
            const box = chart.getBoundingClientRect(), x = chart._fullLayout.xaxis, y = chart._fullLayout.yaxis;
            for (const series of chart._fullData.filter((s) => s.customdata && s.mode === 'markers'))
                series.x.forEach((value, i) => { found[series.customdata[i][0]] =
                    [box.left + x._offset + x.l2p(value), box.top + y._offset + y.l2p(series.y[i])]; });
            return found;
        }"""
    )


def runs(seen) -> list[str]:
    return sorted(parse_qs(urlparse(seen.page.url).query).get("runs", []))


def test_a_click_and_a_box_on_marks_fill_the_table_and_the_url(browse):
    seen = browse().open("tradeoff", run="one")
    assert runs(seen) == []
    there = places(seen)["one"]
    seen.page.mouse.move(*there)
    seen.page.wait_for_selector(".js-plotly-plot .hovertext")
    seen.page.mouse.click(*there)
    seen.page.wait_for_function(f"{LISTED} == 1")
    assert len(runs(seen.settled())) == 1
    seen.page.locator("[data-testid=stPlotlyChart]").first.hover()
    seen.page.locator(".modebar-btn[data-title='Box Select']").first.click()
    x, y = places(seen)["one"]
    seen.page.mouse.move(x - 25, y - 25)
    seen.page.mouse.down()
    seen.page.mouse.move(x + 25, y + 25, steps=6)
    seen.page.mouse.up()
    seen.page.wait_for_function(f"{LISTED} == 2")
    assert runs(seen.settled()) == ["more/two", "one"]  # the two audits lie on one spot
