"""Progress that a run also writes down, so that the app can show how far it is.

Read it as: a line of `events.jsonl` when something new begins, and then at most one a second.
Does not show: whether the process still lives; the app says when the last line was written.
"""

import time
from collections.abc import Callable
from typing import Any

from workbench.store import RunFolder

EVERY = 1.0
"""Seconds between two lines about the same thing."""


class Telling:
    """Called like a progress bar; hands on to one, and writes to the run's events."""

    def __init__(self, run: RunFolder, step: Callable[..., Any] | None = None) -> None:
        self.run = run
        self.step = step
        self.last: tuple[str, float] = ("", 0.0)

    def __call__(self, what: str, done: int, total: int, detail: str = "") -> None:
        """What is being done, how many parts are done, of how many (0: nobody knows), and perhaps a number."""
        if self.step:
            self.step(what, done, total, *([detail] if detail else []))
        before, when = self.last
        if what != before or time.monotonic() - when >= EVERY:
            self.last = (what, time.monotonic())
            self.run.event(what=what, done=done, total=total)
