"""Value vectors in a browser: a click on a mark, or on a cell of the strip, chooses the vector drawn there."""

import pytest

from tests.browser.test_app import url_of
from workbench.shelf import load_trace

pytestmark = pytest.mark.browser

FIND = "[...document.querySelectorAll('.js-plotly-plot')].find(c => (c.layout.meta || {}).alt?.startsWith(alt))"
"""A picture, by the beginning of its sentence."""


def place(seen, alt: str, x: float, y: float | str):
    """Where a point of a picture lies on the page, scrolled into view."""
    return seen.page.evaluate(
        f"""([alt, x, y]) => {{
            const chart = {FIND};
            chart.scrollIntoView({{block: 'center', behavior: 'instant'}});
            const box = chart.getBoundingClientRect(), across = chart._fullLayout.xaxis, up = chart._fullLayout.yaxis;
            const high = up.type === 'category' ? up._categories.indexOf(y) : y;
            return [box.left + across._offset + across.c2p(x), box.top + up._offset + up.c2p(high)];
        }}""",
        [alt, x, y],
    )


def press(seen, alt: str, x: float, y: float | str) -> None:
    """Click as a hand does: move there, wait for the words under the pointer, click."""
    seen.page.wait_for_function(f"(alt) => !!({FIND})", arg=alt)
    seen.page.mouse.move(*place(seen, alt, x, y))
    seen.page.wait_for_selector(".js-plotly-plot .hovertext")
    seen.page.mouse.click(*place(seen, alt, x, y))


def test_a_click_on_a_mark_or_a_cell_chooses_its_vector(browse, store):
    seen = browse().open("concepts", run="one")
    found = load_trace(store / "one", "base", "concept_vectors.forget").labels["site"]
    random = load_trace(store / "one", "base", "random_vectors.forget").labels["site"]
    press(seen, "Value vectors against", 1, 1)  # vectors that nothing touched lie on each other there
    seen.page.wait_for_function("(old) => !location.href.includes(encodeURIComponent(old))", arg=found[0])
    seen.settled()
    chosen = url_of(seen)["vector"]
    assert chosen in (*found, *random) and chosen != found[0] and url_of(seen)["layer"] == "all"
    assert seen.page.get_by_role("heading", name=chosen).count() == 1
    press(seen, "Change of every value vector", 11, "2")
    seen.page.wait_for_selector("h3:has-text('L2.mlp_act[11]')")
    seen.settled()
    assert url_of(seen)["vector"] == "L2.mlp_act[11]" and url_of(seen)["layer"] == "2"
