"""Which of a run's readings a page shows."""

from workbench.pages.frame.reading import Opened
from workbench.pages.frame.states import missing
from workbench.pages.frame.url import choose


def one_reading(run: Opened, instrument: str) -> str | None:
    """Key of the reading, chosen where there are several; a card that says why, and None, where there is none."""
    keys = run.keys(instrument)
    if not keys:
        missing(run, f"{instrument}.forget")
        return None
    return choose("Reading", "reading", keys, run.words) if len(keys) > 1 else keys[0]
