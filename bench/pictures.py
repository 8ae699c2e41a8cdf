"""Pictures of every page of the app, from real runs: `docs/app/*.png`.

    python -m bench.pictures RUNS [PAGE ...]        needs Chromium; `make pictures` makes the runs first

Read it as: what a person sees at 1280 pixels across after `workbench view RUNS`: each page from its top, as tall as its
pictures reach. The choices in the URL are those of `PAGES`, so that pages with a chosen fact or cell show it.
Does not show: that a page is right; the tests do. Numbers are those of the runs it was given.
"""

import re
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

from bench.app_server import CHROMIUM, ROOT, serving
from workbench.errors import BadInput

DOCS = ROOT / "docs" / "app"
WIDTH = 1280
TALLEST = 4000
"""Pixels; what lies below is left out."""

DENSE, MIXTURE = "demo/audits/npo", "demo-moe/audits/npo"
"""Runs of `workbench demo` and `workbench demo --moe` that the pages show."""


@dataclass(frozen=True)
class Shot:
    """One picture."""

    page: str
    """Path of the page; empty for the first one."""
    url: Mapping[str, str] = field(default_factory=lambda: {"run": DENSE})
    """Choices in the URL."""
    presses: tuple[str, ...] = ()
    """Buttons pressed one after another, by the beginning of their words."""


FACT = {"run": DENSE, "item": "3"}
CELL = {"layer": "1", "tok": "last subject"}
ASKED = {"prompt": "The element of Brudas is", "answer": "tin", "subject": "Brudas"}

SHOTS: dict[str, Shot] = {
    "overview": Shot(""),
    "runs": Shot("runs", {"run": DENSE, "cmp": "demo/audits/grad_ascent"}),
    "tradeoff": Shot("tradeoff"),
    "items": Shot("items", FACT),
    "trace": Shot("trace", {"run": DENSE, **CELL}),
    "depth": Shot("depth"),
    "lens": Shot("lens", FACT),
    "probes": Shot("probes"),
    "concepts": Shot("concepts"),
    "weights": Shot("weights"),
    "sae": Shot("sae"),
    "experts": Shot("experts", {"run": MIXTURE, "item": "3", "layer": "1", "expert": "1"}),
    "recovery": Shot("recovery"),
    "live": Shot("live", {"run": DENSE, **ASKED}, ("Load", "Ask")),
    "report": Shot("report"),
}
"""Name of the file -> what is on it."""


def wait_until_drawn(page: Any) -> None:
    """Until the script has run and every picture is drawn."""
    page.wait_for_selector("h2, [data-testid=stAlert]", timeout=120_000)
    page.wait_for_timeout(500)
    page.wait_for_selector("[data-testid=stApp][data-test-script-state=notRunning]", timeout=120_000)
    page.wait_for_function(
        "[...document.querySelectorAll('[data-testid=stPlotlyChart]')].every(c => c.querySelector('.main-svg'))",
        timeout=120_000,
    )
    page.wait_for_timeout(1500)


def take(page: Any, address: str, shot: Shot, to: Path) -> str:
    """One picture; returns what is wrong on the page, if anything is."""
    page.set_viewport_size({"width": WIDTH, "height": 1000})
    page.goto(f"{address}{shot.page}?{urlencode(shot.url)}")
    wait_until_drawn(page)
    for words in shot.presses:
        page.get_by_role("button", name=re.compile(f"^{words}")).first.click()
        wait_until_drawn(page)
    height = page.evaluate("document.querySelector('[data-testid=stMain]').scrollHeight")
    page.set_viewport_size({"width": WIDTH, "height": max(800, min(TALLEST, int(height)))})
    page.wait_for_timeout(1500)
    wait_until_drawn(page)
    page.screenshot(path=str(to))
    wrong = page.query_selector("[data-testid=stException], [data-testid=stAlertContentError]")
    return "" if wrong is None else str(wrong.inner_text())


def main(words: Sequence[str]) -> int:
    """Take the pictures that are asked for, all when none is; 1 when a page shows an error."""
    if not words or not Path(words[0]).is_dir():
        raise BadInput("Name the folder of runs first: python -m bench.pictures RUNS [PAGE ...]")
    if unknown := set(words[1:]) - set(SHOTS):
        raise BadInput(f"There are no pictures called {sorted(unknown)}; there are {sorted(SHOTS)}")
    if CHROMIUM is None:
        raise BadInput("There is no Chromium on this machine: apt-get install chromium")
    asked = words[1:] or list(SHOTS)
    wrong = [
        name
        for live in (False, True)  # the page Live stands in the menu only where it was asked for
        for name in _taken(Path(words[0]), [name for name in asked if (name == "live") == live], live)
    ]
    return 1 if wrong else 0


def _taken(runs: Path, names: Sequence[str], live: bool) -> list[str]:
    """Take some pictures from one server; returns the pages that show an error."""
    from playwright.sync_api import sync_playwright

    wrong = []
    if not names:
        return wrong
    with serving(runs, live=live) as address, sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        page = browser.new_page()
        for name in names:
            to = DOCS / f"{name}.png"
            said = take(page, address, SHOTS[name], to)
            wrong += [name] if said else []
            sys.stdout.write(f"{to}{': ' + said if said else ''}\n")
            sys.stdout.flush()
        browser.close()
    return wrong


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1:]))
    except BadInput as error:
        sys.stderr.write(f"{error}\n")
        sys.exit(2)
