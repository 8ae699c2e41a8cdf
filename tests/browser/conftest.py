"""A real browser on a real server; skipped with a reason where there is no Chromium."""

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import pytest

from bench.app_server import CHROMIUM, serving
from tests.app.conftest import audited  # noqa: F401  the fixture is used by name

PATIENCE = 60_000
"""Milliseconds for anything that should appear; the machine may be busy."""


@pytest.fixture(scope="session")
def store(audited: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:  # noqa: F811
    """Two whole audits."""
    made = tmp_path_factory.mktemp("browser") / "store"
    shutil.copytree(audited, made / "one")
    shutil.copytree(audited, made / "more" / "two")
    return made


@pytest.fixture(scope="session")
def server(store: Path) -> Iterator[str]:
    """The app as `workbench view` starts it."""
    with serving(store) as address:
        yield address


@pytest.fixture(scope="session")
def chromium() -> Iterator[Any]:
    """One browser for all tests."""
    if CHROMIUM is None:
        pytest.skip("no Chromium on this machine: apt-get install chromium")
    sync = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    with sync.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


class Seen:
    """A page with all it asked for and complained about."""

    def __init__(self, page: Any, address: str) -> None:
        self.page, self.address = page, address
        self.requests: list[str] = []
        self.console: list[str] = []
        self.lost: list[str] = []
        page.set_default_timeout(PATIENCE)
        page.on("request", lambda request: self.requests.append(request.url))
        page.on("console", lambda message: self.console.append(message.text) if message.type == "error" else None)
        page.on("pageerror", lambda error: self.console.append(str(error)))
        page.on("response", lambda answer: self.lost.append(answer.url) if answer.status >= 400 else None)

    def open(self, path: str = "", **url: str) -> "Seen":
        """Go there and wait until everything is drawn."""
        path = "" if path == "overview" else path  # the first page is at the root
        self.page.goto(f"{self.address}{path}?{urlencode(url)}")
        self.page.wait_for_selector("h2, [data-testid=stAlert]")
        return self.settled()

    def settled(self) -> "Seen":
        """Wait until the script has run, every picture is drawn and nothing moves any more."""
        self.page.wait_for_timeout(150)  # a click reaches the server before the page says that it runs
        self.page.wait_for_selector("[data-testid=stApp][data-test-script-state=notRunning]")
        self.page.wait_for_function(
            "[...document.querySelectorAll('[data-testid=stPlotlyChart]')].every(c => c.querySelector('.main-svg'))"
        )
        before, same = "", 0
        for _ in range(100):  # pictures arrive after the script has ended, when the browser has loaded plotly
            now = (
                self.page.inner_text("[data-testid=stMain]") if self.page.query_selector("[data-testid=stMain]") else ""
            )
            before, same = now, same + 1 if now == before else 0
            if same == 3:
                break
            self.page.wait_for_timeout(300)
        assert self.page.query_selector("[data-testid=stException]") is None
        return self

    def text(self) -> str:
        """What stands in the main part."""
        return self.page.inner_text("[data-testid=stMain]")


@pytest.fixture
def browse(chromium: Any, server: str) -> Iterator[Callable[[], Seen]]:
    """A new page, without anything of an earlier one."""
    made = []

    def page() -> Seen:
        context = chromium.new_context(viewport={"width": 1280, "height": 900}, accept_downloads=True)
        made.append(context)
        return Seen(context.new_page(), server)

    yield page
    for context in made:
        context.close()
