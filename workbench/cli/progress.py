"""Progress on stderr: a bar on a terminal, a plain line now and then elsewhere, nothing with `--quiet`."""

import contextlib
import sys
from collections.abc import Iterator
from typing import Protocol

from workbench.cli.console import Screen, clean


class Step(Protocol):
    """Called whenever something has moved on."""

    def __call__(self, what: str, done: int, total: int, detail: str = "") -> None:
        """Say what is being done, how many parts are done, of how many (0: nobody knows), and perhaps a number."""


@contextlib.contextmanager
def progress(screen: Screen) -> Iterator[Step]:
    """Lend a `Step` that shows itself for the length of the block."""
    if screen.quiet:
        yield _silent
    elif sys.stderr.isatty():
        with _bar() as step:
            yield step
    else:
        yield _Lines(screen)


def _silent(what: str, done: int, total: int, detail: str = "") -> None:
    """Say nothing."""


@contextlib.contextmanager
def _bar() -> Iterator[Step]:
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}", markup=False), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("", total=None)

        def step(what: str, done: int, total: int, detail: str = "") -> None:
            bar.update(task, description=clean(f"{what} {detail}".strip()), completed=done, total=total or None)

        yield step


class _Lines:
    """A line when something new begins and for each further tenth of it; of unknown length, whenever it has doubled."""

    def __init__(self, screen: Screen) -> None:
        self.screen = screen
        self.last: tuple[str, int] = ("", -1)

    def __call__(self, what: str, done: int, total: int, detail: str = "") -> None:
        here = (what, 10 * done // total if total else done.bit_length())
        if here != self.last:
            self.last = here
            self.screen.note(f"[{done}/{total or '?'}] {what} {detail}".rstrip())
